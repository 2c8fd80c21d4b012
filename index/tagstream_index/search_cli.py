"""`tagstream search`: finds images in the index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from schemas.printable import counted
from workers.assembly.needs import needed_of
from workers.cli import terminal
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from tagstream_index.copies import Copy
    from tagstream_index.searching import Found
    from tagstream_index.settings import IndexSettings

_TAGS_SHOWN = 8
_WORDS = 'Such as red car, "red car" as a phrase, car or bus, -- car -red, NAME:word in results.'
_RERANK = "Order the first 100 by how well they match --about. Reads the images."
_COPIES = "Copies of this image, such as photos/a.jpg: equal, or near by the hash."
_WITHIN = "Largest cosine distance. Default: 0.3 for --like, 1 for --about."
_SORT = "By fit of the words (the default with words), score of the tags, time stored or day taken."


def search(
    words: Annotated[list[str] | None, typer.Argument(metavar="WORDS", help=_WORDS)] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME", help="A tag that the image has. Repeat it for more.")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lowest score of each --tag; without, of the best tag.")
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="Stored since: 7d, 12h, 2026-01-31.")] = None,
    bucket: Annotated[str | None, typer.Option(metavar="NAME", help="Its bucket.")] = None,
    prefix: Annotated[str | None, typer.Option(metavar="TEXT", help="Of the key.")] = None,
    like: Annotated[Path | None, typer.Option(metavar="PHOTO", help="Images near this one, the nearest first.")] = None,
    bundle: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Model for --like. Default: TAGSTREAM_TAGGER.")
    ] = None,
    about: Annotated[
        str | None, typer.Option(metavar="SENTENCE", help="Images near this sentence; with WORDS one list.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Dual encoder whose text tower reads --about.")
    ] = None,
    rerank: Annotated[Path | None, typer.Option(metavar="BUNDLE", help=_RERANK)] = None,
    copies_of: Annotated[str | None, typer.Option(metavar="SUBJECT", help=_COPIES)] = None,
    within: Annotated[float | None, typer.Option(min=0, max=2, help=_WITHIN)] = None,
    sort: Annotated[Literal["rank", "score", "time", "day"] | None, typer.Option(help=_SORT)] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Most images.")] = 20,
    offset: Annotated[int, typer.Option(min=0, max=10_000, help="Images to leave out: the next page.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, an image each.")] = False,
) -> None:
    """Find images by words, tags, time, place, or likeness.

    Words match tags, captions, keys and results. All conditions hold together; without any, the newest images come. An
    empty result exits with 0. A search ends after 2 s. Reads the tables that [bold]tagstream index
    run[/] keeps; needs TAGSTREAM_INDEX_DSN. --like and --about need embeddings in the index, and a bundle of the same
    space: to images that RAM or RAM++ tagged, sentences are compared by CLIP B/16.

    [dim]Dogs in front of red cars, this week's:[/]  tagstream search red car --tag dog --min-score 0.5 --since 7d

    [dim]For a program, the second page:[/]  tagstream search beach --bucket photos --limit 50 --offset 50 --json

    [dim]Photos like this one:[/]  tagstream search --like photo.jpg --bundle bundles/ram

    [dim]By meaning and words:[/]  tagstream search dog beach --about 'a dog on a beach' --text bundles/clip-b16

    [dim]Copies of an image:[/]  tagstream search --copies-of photos/a.jpg

    [dim]Ordered by a Tag2Text's alignment part:[/]  … --limit 50 --rerank bundles/tag2text
    """
    from tagstream_index.database import connected
    from tagstream_index.page.typed import results_in
    from tagstream_index.query import Query
    from tagstream_index.searching import search as searched
    from tagstream_index.searching import searching
    from tagstream_index.settings import IndexSettings

    settings = needed_of(IndexSettings, "index_dsn")
    if (about is None) != (text is None):
        raise Misconfigured("--about SENTENCE and --text BUNDLE, a dual encoder with its text tower, need each other")
    if rerank is not None and about is None:
        raise Misconfigured("--rerank BUNDLE orders images by a sentence: give --about SENTENCE too")
    query = Query(
        " ".join(words or ()),
        tags=tags or (),
        min_score=min_score,
        since=None if since is None else datetime.fromtimestamp(terminal.moment_ms(since) / 1000, UTC),
        bucket=bucket,
        prefix=prefix,
        within=within,
        sort=sort,
    )
    if copies_of is not None:
        if query != Query() or about or like or offset:
            raise Misconfigured("--copies-of SUBJECT goes with --limit and --json alone: leave other conditions out")
        _show_copies(settings, copies_of, limit, as_json)
        return
    with closing(connected(settings)) as connection:
        with searching(connection) as searcher:
            left, of_results = results_in(query.words, searcher.results)
        query = replace(query, words=left, filters=of_results)
        if about is not None and text is not None:
            from tagstream_index.sentences import embedding_of as embedded
            from tagstream_index.sentences import open_text

            query = replace(query, about=embedded(open_text(text), about))
        if like is not None:
            from tagstream_index.likeness import embedding_of

            query = replace(query, like=embedding_of(like, bundle, terminal.note))
        found = searched(query, connection, limit=limit, offset=offset)
    if rerank is not None and about is not None:
        from tagstream_index.likeness import reranked

        found = reranked(found, about, rerank, terminal.note)
    _show(found, ("image", "tags", "caption"), map(_cells, found), as_json)
    if not found:
        typer.echo("no image", err=True)
    elif len(found) == limit:
        typer.echo(f"there may be more: --offset {offset + limit}", err=True)


def _show_copies(settings: IndexSettings, subject: str, limit: int, as_json: bool) -> None:
    from tagstream_index.copies import copies_of
    from tagstream_index.database import connected
    from tagstream_index.searching import searching

    with closing(connected(settings)) as connection, searching(connection) as searcher:
        found = copies_of(searcher, subject)
    if found is None:
        raise Misconfigured(f"the index has no image {subject!r}: name it as `tagstream search` shows it, BUCKET/KEY")
    found = found[:limit]
    _show(found, ("image", "size", "bytes", "copy"), map(_copy_cells, found), as_json)
    if not found:
        typer.echo("no copy", err=True)


def _show(found: Sequence[Found | Copy], columns: Sequence[str], rows: Iterable[Sequence[str]], as_json: bool) -> None:
    if as_json:
        for each in found:
            typer.echo(terminal.as_json(each.document()))
    elif found:
        console = terminal.console()
        cells = [[terminal.text(cell) for cell in row] for row in rows]
        console.print(terminal.listing(columns, cells, 1, console.width))


def _copy_cells(copy: Copy) -> tuple[str, str, str, str]:
    image, near = copy.image, "equal" if copy.bits is None else f"near: {counted(copy.bits, 'bit')}"
    return image.subject, f"{image.width} × {image.height}", f"{image.bytes:,}", near


def _cells(found: Found) -> tuple[str, str, str]:
    best = list(zip(found.names, found.scores, strict=True))[:_TAGS_SHOWN]
    near = "" if found.distance is None else f"  (distance {found.distance:.2f})"
    tags = ", ".join(f"{tag} {score:.2f}" for tag, score in best)
    return found.subject + near, tags, found.line or found.caption or ""
