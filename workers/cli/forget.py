"""`tagstream forget`: retracts images and purges their stored results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.printable import counted
from workers.assembly.needs import needed
from workers.cli import terminal
from workers.cli.terminal import NOTHING_YET, GoOption
from workers.errors import FOUND, Misconfigured
from workers.files import require_subject, subjects_in

if TYPE_CHECKING:
    from workers.republish.forgetting import Subjects


def forget(
    subject: Annotated[
        str | None, typer.Argument(metavar="BUCKET/KEY", help="The image, as `subject` of its enriched event names it.")
    ] = None,
    prefix: Annotated[
        str, typer.Option(metavar="BUCKET/PREFIX", help="All images that begin so, as far as the topics know them.")
    ] = "",
    listed: Annotated[
        Path | None, typer.Option("--list", metavar="FILE", help="Images, one BUCKET/KEY a line; -: stdin.")
    ] = None,
    go: GoOption = False,
    keep_object: Annotated[
        bool,
        typer.Option(
            "--keep-object",
            help="Also images that the store still has. Their next event brings them back, as one of a bulk "
            "`tagstream emit`: give it the same list by --except.",
        ),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only search for what is left, once it is compacted.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON document.")] = False,
) -> None:
    """Forget images: retract their outcomes, withdraw corrections, purge cache and index.

    Publishes a retraction and a tombstone for each image; interrupted, the same command goes on. Remove the objects
    and their renditions first. The report names what is beyond reach. --verify exits with 1 if it finds a name in the
    enriched topic, in the index that TAGSTREAM_INDEX_DSN names, in Redis or in TAGSTREAM_STATE_DIR.

    [dim]One image:[/]   tagstream forget photos/2026/cat.jpg --go
    [dim]A folder:[/]    tagstream forget --prefix photos/2026/ --go
    [dim]Any left?[/]    tagstream forget photos/2026/cat.jpg --verify
    """
    from workers.assembly.forget import Forget
    from workers.assembly.forget_reach import found_lines, search
    from workers.rendition import Rendition

    chosen = _chosen(subject, prefix, listed)
    settings = needed("kafka_servers", "s3_endpoint")
    chosen = chosen.with_renditions(Rendition.of(settings.rendition, settings.buckets))
    found = search(settings, chosen, terminal.counting) if verify else None
    if found is None:
        report = Forget(settings, chosen, keep_object=keep_object, counting=terminal.counting).run(go=go)
    if as_json:
        typer.echo(terminal.as_json(report if found is None else found, indent=2))
    else:
        for line in _lines(report) if found is None else found_lines(found):
            terminal.say(line)
    if found and found["found"]:
        raise typer.Exit(FOUND)


def _chosen(subject: str | None, prefix: str, listed: Path | None) -> Subjects:
    """Raises Misconfigured: not exactly one of the three is given, or it names no image."""
    from workers.republish.forgetting import Subjects

    if (subject is not None) + bool(prefix) + (listed is not None) != 1:
        raise Misconfigured("say what to forget: BUCKET/KEY, --prefix BUCKET/PREFIX or --list FILE")
    if listed is not None:
        return Subjects(subjects_in(listed))
    require_subject(*(("the image", subject) if subject is not None else ("--prefix", f"{prefix}*")))
    return Subjects(frozenset({subject} if subject is not None else ()), prefix)


def _row(number: int, noun: str, plural: str = "") -> str:
    count, _, what = counted(number, noun, plural).partition(" ")
    return f"{count:>9} {what}"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    from workers.assembly.forget import COUNTED

    present, entries = report["present"], report["entries"]
    had = _row(report["subjects"], "image has", "images have")
    yield f"{had} records in the topics; {report['due']:,} not forgotten before"
    yield from (_row(report[name], name.removesuffix("s")) for name in COUNTED if report[name])
    yield from (f"{_row(count, 'row')} in {part}" for part, count in report["rows"].items())
    yield "no cache was looked at" if entries is None else _row(entries, "entry of Redis", "entries of Redis")
    if present:
        still = _row(present, "image is", "images are")
        yield f"{still} still in the store, such as {', '.join(report['first_present'])}"
    for each in report["beyond"]:
        end = "no retention ends it" if each["until"] is None else f"gone by {each['until']}"
        yield f"beyond reach: {each['place']}: {end} ({each['why']})"
    if report["finished"]:
        yield "done"
    else:
        yield "interrupted: the same command goes on" if report["go"] else NOTHING_YET
