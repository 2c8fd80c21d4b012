"""The commands of `tagstream index`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.printable import counted
from workers.assembly.needs import needed, needed_of
from workers.cli import terminal
from workers.cli.terminal import WITHOUT_GO, GoOption
from workers.errors import FOUND, Misconfigured

GROUPS_SHOWN = 20

app = typer.Typer(
    help="Keep what was tagged in PostgreSQL. docs/guide/index-search.md is the guide.", no_args_is_help=True
)


def _named(metavar: str, meaning: str) -> Any:
    """An option that takes a value."""
    return typer.Option(metavar=metavar, help=meaning, dir_okay=metavar != "FILE")


_LANGUAGE = "PostgreSQL's text search configuration for new tables: english (the default), simple, german, …"
_READER = "Let this role of PostgreSQL read the tables: for the search page."
_EDITORS = "With --user-header: names that may correct, one a line, # for comments; read again when it changes."
_BUNDLES = "Folder of bundles, whose thresholds are shown. Default: the cache, which has compact."
_CHANGES = "A file of `tagstream retag plan --changes` or `tagstream compare --changes`, shown under /changes."
_TEXT = "Dual encoder whose text tower lets words rank by their meaning too."


def _show(report: Mapping[str, Any], lines: Iterable[str], as_json: bool) -> None:
    """The report as JSON, or as lines for people."""
    if as_json:
        terminal.show_json(report)
        return
    for line in lines:
        terminal.say(line)


@app.command("init")
def init(
    language: Annotated[str | None, _named("NAME", _LANGUAGE)] = None,
    reader: Annotated[str | None, _named("ROLE", _READER)] = None,
) -> None:
    """Make the tables in PostgreSQL, or bring them to this version. Safe to repeat.

    Needs TAGSTREAM_INDEX_DSN, and once the right to create the extension vector (pgvector).

    [dim]For captions in German:[/]     tagstream index init --language german
    [dim]Let the page's role read:[/]  tagstream index init --reader page
    """
    from tagstream_index.database import CALL_S, connected, grant_reading, mapped
    from tagstream_index.database import init as make_tables
    from tagstream_index.settings import IndexSettings

    settings = needed_of(IndexSettings, "index_dsn")
    with closing(connected(settings, statement_s=100 * CALL_S, made=False)) as connection, mapped():
        done = make_tables(connection, settings.index_schema, language)
        if reader is not None:
            grant_reading(connection, settings.index_schema, reader)
    made = f"{counted(len(done), 'migration')} run" if done else "nothing to do"
    terminal.say(f"schema {settings.index_schema}: {made}")


@app.command("run")
def run(
    until_idle: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=1, help="Stop after so many idle seconds: for backfills and tests."),
    ] = None,
) -> None:
    """Read the enriched topic, and write each image's newest outcome to PostgreSQL.

    Needs TAGSTREAM_KAFKA_SERVERS and TAGSTREAM_INDEX_DSN, and tables ([bold]tagstream index init[/]). Several may run:
    they share the partitions. A kill loses nothing. Health and metrics are on TAGSTREAM_INDEX_HTTP_PORT.

    [dim]Index the present records, and stop:[/]  tagstream index run --until-idle 10
    """
    from tagstream_index.settings import IndexSettings
    from workers.environment import all_secrets, wants_json_log
    from workers.service.logs import start_logging
    from workers.service.process import stray_output_logged

    if wants_json_log():
        start_logging("info", "json")  # a wrong setting is a line of JSON too
    settings = needed_of(IndexSettings, "kafka_servers", "index_dsn")
    with stray_output_logged() as stderr:
        start_logging(settings.log_level, settings.log_format, secrets=all_secrets(settings), stream=stderr)
        from tagstream_index.process import IndexProcess

        IndexProcess(settings, until_idle).run()


@app.command("status")
def status(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show how far the index is: lag, images, age of the newest record, last error.

    [dim]For a program:[/]  tagstream index status --json
    """
    from tagstream_index.database import connected, limited
    from tagstream_index.settings import IndexSettings
    from tagstream_index.status import lines, read_status
    from workers.assembly.clients import security, servers
    from workers.backends.kafka import extents

    settings = needed_of(IndexSettings, "kafka_servers", "index_dsn")
    ends = extents(servers(settings), [settings.output_topic], security=security(settings))
    with closing(connected(settings)) as connection, limited(connection):
        found = read_status(connection, settings.output_topic, ends)
    _show(found, lines(found), as_json)


@app.command("rebuild")
def rebuild(
    go: GoOption = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Also from a topic that does not have all outcomes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Build new tables from the enriched topic, and swap them in.

    For a recreated topic, and for tables that [bold]tagstream index check[/] finds wrong. The old tables serve until
    then, and a running [bold]tagstream index run[/] continues with the new ones. After a kill, run it again.

    [dim]Only say it:[/]  tagstream index rebuild
    [dim]Do it:[/]        tagstream index rebuild --go
    """
    from tagstream_index.rebuild import Rebuild
    from tagstream_index.settings import IndexSettings

    settings = needed_of(IndexSettings, "kafka_servers", "index_dsn")
    run = Rebuild(settings, partial=partial, counting=terminal.counting, note=terminal.note)
    report = run.run() if go else run.try_first()
    images = f"{counted(report['images'], 'image')} and {counted(report['gone'], 'removed one')}"
    if go:
        unreadable = f", {report['unreadable']:,} can't be read" if report["unreadable"] else ""
        read = f"{counted(report['records'], 'record')} of {report['topic']}{unreadable}"
        told = [f"{images} from {read}, in {terminal.duration(report['seconds'])}"]
    else:
        new = f"new tables from {counted(report['offsets'], 'offset')} of {report['topic']}"
        told = [f"{new} would take the place of {images}", terminal.NOTHING_YET]
    _show(report, [f"schema {report['schema']}: {told[0]}", *told[1:]], as_json)


@app.command("check")
def check(as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False) -> None:
    """Compare the tables with the enriched topic.

    Exits with 1 if they differ. Ignores records that are not indexed yet, and the history. Needs the right to make
    temporary tables, which hold a copy of the index.

    [dim]For a program:[/]  tagstream index check --json
    """
    from tagstream_index.check import Check, lines
    from tagstream_index.settings import IndexSettings

    settings = needed_of(IndexSettings, "kafka_servers", "index_dsn")
    report = Check(settings, terminal.counting, terminal.note).run()
    _show(report, lines(report), as_json)
    if report["differing"]:
        raise typer.Exit(FOUND)


@app.command("review")
def review(
    label: Annotated[str | None, typer.Argument(metavar="LABEL", help="The tag whose pictures are drawn.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, max=1_000, help="Most pictures to draw.")] = 50,
    out: Annotated[Path, typer.Option("-o", metavar="FILE", help="File to write the draw to.")] = Path("review.jsonl"),
    result: Annotated[Path | None, _named("FILE", "Instead: what the verdicts in this file say.")] = None,
    accepted: Annotated[bool, typer.Option("--accepted", help="Correct accepted pictures too.")] = False,
    go: Annotated[bool, typer.Option("--go", help=f"With --result: send the corrections. {WITHOUT_GO}")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --result: as JSON.")] = False,
) -> None:
    """Draw a tag's pictures for people to judge; tell its precision.

    Half of the pictures have scores near the tag's threshold; some lie just below it, if the index has stored scores.
    A person accepts or rejects each on the page, or by `"verdict": "rejected"` in its line. Rejected pictures become
    corrections, which `tagstream retag` applies. Needs TAGSTREAM_INDEX_DSN; --go needs TAGSTREAM_KAFKA_SERVERS and
    TAGSTREAM_CORRECTIONS_TOPIC.

    [dim]Draw:[/]     tagstream index review dog -n 50 -o review.jsonl
    [dim]Judge:[/]    tagstream index serve --review review.jsonl
    [dim]Result:[/]   tagstream index review --result review.jsonl
    [dim]Correct:[/]  tagstream index review --result review.jsonl --go
    """
    if (label is None) == (result is None) or (result is None and (accepted or go or as_json)):
        raise Misconfigured("give a LABEL to draw pictures, or --result FILE, with or without --accepted, --go, --json")
    if label is not None:
        _draw(label, count, out)
    elif result is not None:
        _show_result(result, accepted=accepted, go=go, as_json=as_json)


def _draw(label: str, count: int, out: Path) -> None:
    from tagstream_index.database import connected
    from tagstream_index.review import draw

    if out.exists():
        raise Misconfigured(f"{out} exists, and may have verdicts: name another file with -o")
    with closing(connected()) as connection:
        drawn, lacking = draw(connection, label, count)
    drawn.write(out)
    if lacking:
        terminal.note(lacking)
    shown = sum(each.shows for each in drawn.drawn)
    of = f"of {drawn.head.shown:,} that show {label!r}, and {len(drawn.drawn) - shown:,} just below"
    terminal.say(f"{counted(shown, 'picture')} {of}: {out}. Judge them: tagstream index serve --review {out}")


def _show_result(path: Path, *, accepted: bool, go: bool, as_json: bool) -> None:
    from tagstream_index.review import Review, document, lines

    found = Review.read(path)
    records = list(found.corrections(accepted=accepted))
    _show(document(found) | {"corrections": len(records)}, lines(found), as_json)
    if go and records:
        from workers.assembly.corrections import send_corrections

        settings = needed("kafka_servers", "corrections_topic")
        send_corrections(settings, settings.corrections_topic, records, terminal.counting)
    if not as_json:
        terminal.say(f"{counted(len(records), 'correction')} {'sent' if go else 'would be sent'}")
    if records and not go:
        terminal.note(terminal.NOTHING_YET)


@app.command("copies")
def copies(as_json: Annotated[bool, typer.Option("--json", help="Every group as JSON, one a line.")] = False) -> None:
    """Show groups of copies, the largest first; deletes nothing.

    Tells the bytes that could be freed. Copies have equal content, or perceptual hashes that differ in at most 6 of 64
    bits. Two images of a group may differ more, with others between them. The image to keep has the most pixels, then
    the most bytes, then is the oldest. Reads the whole index: a million images take a minute and 200 MB of memory.
    Needs TAGSTREAM_INDEX_DSN.

    [dim]The names of all but the ones to keep:[/]  tagstream index copies --json | jq -r '.copies[].subject'
    """
    from itertools import islice

    from psycopg import IsolationLevel

    from tagstream_index.database import connected, mapped
    from tagstream_index.grouping import documents, groups

    with closing(connected(statement_s=0)) as connection, mapped():
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        with connection.transaction():
            found = groups(connection, terminal.counting)
            for each in islice(documents(connection, found), None if as_json else GROUPS_SHOWN):
                typer.echo(terminal.as_json(each)) if as_json else terminal.say(_group(each))
    if not as_json:
        number, images = len(found.freed), counted(len(found.at), "image")
        if number > GROUPS_SHOWN:
            terminal.say(f"… and {number - GROUPS_SHOWN:,} more; --json shows them")
        freed = f"; {found.freed.sum() / 1e9:,.2f} GB could be freed" if number else ""
        terminal.say(f"{counted(number, 'group')} of {images}{freed}")


def _group(told: dict[str, Any]) -> str:
    keep, others = told["keep"], told["copies"]
    shown = ", ".join(each["subject"] for each in others[:3]) + (f" and {len(others) - 3:,} more" if others[3:] else "")
    kept = f"{keep['subject']} ({keep['width']} × {keep['height']})"
    return f"{told['images']:,} images, {told['freed_bytes'] / 1e6:,.1f} MB: keep {kept}, not {shown}"


@app.command("serve")
def serve(
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to bind.")] = 8082,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy in front asks who people are; needs --name.")
    ] = False,
    name: Annotated[
        list[str] | None, _named("HOST", "Name by which people open the page; repeatable. Others get 421.")
    ] = None,
    user_header: Annotated[
        str | None, _named("HEADER", "With --behind-proxy: header that names the person, X-Forwarded-User.")
    ] = None,
    editors: Annotated[Path | None, _named("FILE", _EDITORS)] = None,
    bundles: Annotated[Path | None, _named("FOLDER", _BUNDLES)] = None,
    cache_mb: Annotated[int, typer.Option(min=1, help="Most megabytes of thumbnails in a temporary file.")] = 1_000,
    changes: Annotated[Path | None, _named("FILE", _CHANGES)] = None,
    choices: Annotated[
        Path | None, _named("FILE", "With --changes: keep verdicts here, for `tagstream retag go --only FILE`.")
    ] = None,
    review: Annotated[Path | None, _named("FILE", "A draw of `tagstream index review`, judged under /review.")] = None,
    text: Annotated[Path | None, _named("BUNDLE", _TEXT)] = None,
) -> None:
    """Serve the search page: type words, see pictures.

    Needs TAGSTREAM_INDEX_DSN; shows pictures of TAGSTREAM_BUCKETS from TAGSTREAM_S3_ENDPOINT. Any address but
    this machine's own needs TAGSTREAM_INDEX_PAGE_TOKEN or --behind-proxy. With the token, or as --editors, people
    correct tags, if TAGSTREAM_KAFKA_SERVERS and TAGSTREAM_CORRECTIONS_TOPIC are set. docs/guide/search-page.md is the
    guide.

    [dim]On this machine:[/]  tagstream index serve
    [dim]Behind a proxy:[/]   tagstream index serve --host 0.0.0.0 --behind-proxy --name photos.example
    """
    from tagstream_index.page.process import serve_page
    from tagstream_index.settings import IndexSettings

    if choices is not None and changes is None:
        raise Misconfigured(f"--choices {choices}: name the changes to judge with --changes FILE")
    settings = needed_of(IndexSettings, "index_dsn", "s3_endpoint", "buckets")
    serve_page(
        settings,
        (host, port),
        behind_proxy=behind_proxy,
        names=[each.lower() for each in name or ()],
        user_header=user_header,
        editors=editors,
        bundles=bundles,
        cache_bytes=cache_mb * 1_000_000,
        changes=changes,
        choices=choices,
        review=review,
        text=text,
        up=terminal.say,
    )
