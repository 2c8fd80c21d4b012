"""`tagstream forget`: retracts images and purges what is remembered of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.assembly.needs import needed
from workers.cli import terminal
from workers.cli.terminal import NOTHING_YET, GoOption
from workers.errors import FOUND, Misconfigured

if TYPE_CHECKING:
    from workers.retag.forgetting import Subjects

_LINE_BYTES = 4_096


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
    first. The report names what is beyond reach. --verify exits with 1 if it finds a name in the enriched topic, in
    the index that TAGSTREAM_INDEX_DSN names, in Redis or in TAGSTREAM_STATE_DIR.

    [dim]One image:[/]   tagstream forget photos/2026/cat.jpg --go
    [dim]A folder:[/]    tagstream forget --prefix photos/2026/ --go
    [dim]Any left?[/]    tagstream forget photos/2026/cat.jpg --verify
    """
    from workers.assembly import forget_reach
    from workers.assembly.forget import Forget

    chosen = _chosen(subject, prefix, listed)
    settings = needed("kafka_servers", "s3_endpoint")
    found = forget_reach.search(settings, chosen, terminal.counting) if verify else None
    report = (
        found
        if found is not None
        else Forget(settings, chosen, keep_object=keep_object, counting=terminal.counting).run(go=go)
    )
    if as_json:
        typer.echo(terminal.as_json(report, indent=2))
    else:
        for line in _lines(report) if found is None else forget_reach.lines(found):
            terminal.say(line)
    if found and found["found"]:
        raise typer.Exit(FOUND)


def _chosen(subject: str | None, prefix: str, listed: Path | None) -> Subjects:
    """
    Raises:
        Misconfigured: not exactly one of the three is given, or it names no image.
    """
    from workers.retag.forgetting import Subjects

    if (subject is not None) + bool(prefix) + (listed is not None) != 1:
        raise Misconfigured("say what to forget: BUCKET/KEY, --prefix BUCKET/PREFIX or --list FILE")
    if listed is not None:
        return Subjects(subjects_in(listed))
    _require_subject(*(("the image", subject) if subject is not None else ("--prefix", f"{prefix}*")))
    return Subjects(frozenset({subject} if subject is not None else ()), prefix)


def subjects_in(listed: Path) -> frozenset[str]:
    """Subjects that a file names, one BUCKET/KEY a line.

    Raises:
        Misconfigured: a line is no BUCKET/KEY, or the file can't be read or names no image.
    """
    from workers.cli.correct import lines_of

    lines = enumerate(lines_of(listed, _LINE_BYTES), 1)
    named = {number: line.decode(errors="replace") for number, line in lines if line}
    if not named:
        raise Misconfigured(f"{listed} names no image")
    for number, name in named.items():
        _require_subject(f"{listed}, line {number}", name)
    return frozenset(named.values())


def _require_subject(where: str, name: str) -> None:
    bucket, _, key = name.partition("/")
    if not bucket or not key:
        raise Misconfigured(f"{where}: {name!r} is no BUCKET/KEY")


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    from workers.assembly.forget import COUNTED

    yield f"{report['subjects']:9,} images have records in the topics; {report['due']:,} not forgotten before"
    yield from (f"{report[name]:9,} {name}" for name in COUNTED if report[name])
    yield from (f"{count:9,} rows in {part}" for part, count in report["rows"].items())
    yield "no cache was looked at" if report["entries"] is None else f"{report['entries']:9,} entries of Redis"
    if report["present"]:
        yield f"{report['present']:9,} images are still in the store, such as {', '.join(report['first_present'])}"
    for each in report["beyond"]:
        end = "no retention ends it" if each["until"] is None else f"gone by {each['until']}"
        yield f"beyond reach: {each['place']}: {end} ({each['why']})"
    if report["finished"]:
        yield "done"
    else:
        yield "interrupted: the same command goes on" if report["go"] else NOTHING_YET
