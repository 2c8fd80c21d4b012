"""`tagstream correct`: sends people's corrections of tags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.printable import counted
from workers.assembly.needs import needed
from workers.cli.terminal import DryRunOption, counting
from workers.errors import Misconfigured
from workers.files import lines_of

if TYPE_CHECKING:
    from schemas.correction import CorrectionRecord
    from workers.settings import Settings

_SENT = ". The lines before it are sent."
DEFAULT_TOPIC = "images.corrections"


def correct(
    subject: Annotated[
        str | None, typer.Argument(metavar="BUCKET/KEY", help="The image, as `subject` of its enriched event names it.")
    ] = None,
    add: Annotated[
        list[str] | None, typer.Option("--add", "-a", metavar="TAG", help="A tag that the image has.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", "-r", metavar="TAG", help="A tag that the image does not have.")
    ] = None,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Withdraw all corrections of the image.")] = False,
    sha256: Annotated[
        str | None, typer.Option(help="Hash of the image seen; other uploads under this key are not corrected.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="DIGEST", help="Digest of the corrected tagger.")] = None,
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the person.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="File of JSON lines in the schema image-correction/1; -: stdin.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help=f"Default: TAGSTREAM_CORRECTIONS_TOPIC, or {DEFAULT_TOPIC}.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Send the image's event too, and wait for an outcome with the correction.")
    ] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Say which tags an image has and which it does not have.

    For each tag the last correction counts. Workers with TAGSTREAM_CORRECTIONS_TOPIC apply it to later events of the
    image and mark such tags `source: person`; `tagstream train collect` learns from it.

    [dim]One image:[/]   tagstream correct photos/2024/dog.jpg --add terrier --remove cat
    [dim]At once:[/]     tagstream correct photos/2024/dog.jpg --add terrier --apply
    [dim]Many:[/]        tagstream correct --file corrections.jsonl
    [dim]Take back:[/]   tagstream correct photos/2024/dog.jpg --withdraw
    """
    from workers.assembly.corrections import require_applied, require_corrections_topic, send_corrections

    facts = {"sha256": sha256, "model": model, "by": by}
    if (subject is None) == (file is None):
        raise Misconfigured("Name one image as BUCKET/KEY, or a file of corrections with --file.")
    if file is None:
        records = iter([_correction(subject or "", add or (), remove or (), withdraw=withdraw, **facts)])
    elif add or remove or withdraw or any(facts.values()):
        raise Misconfigured("--file excludes the options for one image.")
    else:
        records = _records(file, "" if dry_run else _SENT)
    if apply and file is not None:
        raise Misconfigured("--apply is for one image; for many, correct them and then run `tagstream retag`")
    settings = needed("kafka_servers", *(("s3_endpoint",) if apply else ()))
    name = topic or settings.corrections_topic or DEFAULT_TOPIC
    if apply and not dry_run:
        require_applied(settings, name)
        require_corrections_topic(settings, name)
        typer.echo(f"1 correction sent to {name}; the outcome of version {_applied(settings, records)} shows it")
        return
    if dry_run:
        require_corrections_topic(settings, name)
        count = sum(1 for _ in records)
        typer.echo(f"{counted(count, 'correction')} would be sent to {name}; nothing was done")
        return
    typer.echo(f"{counted(send_corrections(settings, name, records, counting), 'correction')} sent to {name}")


def _applied(settings: Settings, records: Iterator[CorrectionRecord]) -> int:
    from workers.assembly.corrections import Applier, Applying

    applying = Applying(next(records))
    with Applier(settings) as applier:
        applier.add([applying])
        while applier.turn():
            pass
    if applying.failure:
        raise Misconfigured(f"--apply: {applying.failure}")
    return applying.version


def _correction(
    subject: str, added: Sequence[str], removed: Sequence[str], *, withdraw: bool, **facts: str | None
) -> CorrectionRecord:
    """The correction of one image. Raises Misconfigured: the options are none, or contradict each other."""
    from schemas.correction import correction, withdrawal

    bucket, _, key = subject.partition("/")
    if not key:
        raise Misconfigured(f"{subject!r} is no BUCKET/KEY")
    if withdraw and (added or removed):
        raise Misconfigured("--withdraw takes back all corrections: give it without --add and --remove.")
    if not (withdraw or added or removed):
        raise Misconfigured("Give at least one of --add TAG, --remove TAG and --withdraw.")
    try:
        return withdrawal(bucket, key) if withdraw else correction(bucket, key, added=added, removed=removed, **facts)
    except ValueError as error:
        raise Misconfigured(f"this is no correction: {error}") from None


def _records(file: Path, before: str = _SENT) -> Iterator[CorrectionRecord]:
    """Raises Misconfigured: a line is no correction, with its number and `before`, the state of the lines before it."""
    from schemas.correction import MAX_BYTES, CorrectionRecord, read_correction

    for number, line in enumerate(lines_of(file, MAX_BYTES), 1):
        if not line.strip():
            continue
        try:
            said = read_correction(line)
        except ValueError as error:
            raise Misconfigured(f"{file}, line {number}: {error}{before}") from None
        yield CorrectionRecord(said.subject.encode(), line)
