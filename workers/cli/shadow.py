"""`tagstream shadow report`: what the shadow tagger said beside the live one, and whether it may take its place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from schemas.printable import counted
from workers.cli import terminal
from workers.cli.exit_codes import DONE
from workers.cli.local_files import read_regular_file
from workers.errors import LargerThanReserved, Misconfigured

if TYPE_CHECKING:
    from workers.pipeline.shadow.report import ShadowReport, TagCounts
    from workers.pipeline.shadow.verdict import Objection, PromotionRule

NOT_YET = 1
"""Exit code: the shadow may not be promoted."""
_BAR = 40
_WRITTEN = "a worker with TAGSTREAM_SHADOW_TAGGER writes one every minute"

app = typer.Typer(help="A second tagger, tried beside the live one.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Makes `report` a subcommand although it is the only one."""


@app.command()
def report(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="Reports of workers, or folders of them. By default the folder that the settings name.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="So many images were compared at least.")] = 1_000,
    jaccard: Annotated[float, typer.Option(min=0, max=1, help="The mean Jaccard index is no less.")] = 0.8,
    label_images: Annotated[
        int, typer.Option(min=1, help="A label that the live tagger gave to so many images is judged by itself.")
    ] = 20,
    label_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Of the images to which either gave it, both gave it to this share.")
    ] = 0.5,
    may_lose_labels: Annotated[
        bool, typer.Option("--may-lose-labels", help="The shadow need not have all labels that the live tagger gives.")
    ] = False,
    worst: Annotated[int, typer.Option(min=0, max=1_000, help="How many of the worst labels to list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Add up the reports of all workers, and say whether the shadow tagger may take the place of the live one.

    A worker with TAGSTREAM_SHADOW_TAGGER writes one every minute and at its end. Tags are compared by the names of
    labels. Ends with 0 when the shadow may be promoted, and with 1 and the reason when it may not.

    [dim]Of this machine's workers:[/]  tagstream shadow report

    [dim]Of workers elsewhere:[/]       tagstream shadow report reports/*.json --images 5000
    """
    from workers.pipeline.shadow.report import merged
    from workers.pipeline.shadow.verdict import PromotionRule, objections

    whole = merged(_read(files or [_own_folder()]))
    rule = PromotionRule(images, jaccard, label_images, label_agreement, may_lose_labels)
    against = objections(whole, rule)
    if as_json:
        typer.echo(terminal.as_json(_document(whole, rule, against, worst)))
    else:
        _print(whole, rule, against, worst)
    raise typer.Exit(NOT_YET if against else DONE)


def _own_folder() -> Path:
    from workers.settings import read

    folder = read(os.environ).shadow_folder()
    if not folder.is_dir():
        raise Misconfigured(f"there is no report in {folder}: {_WRITTEN}")
    return folder


def _read(places: list[Path]) -> Iterator[tuple[str, ShadowReport]]:
    """Each report with its file's name.

    Raises:
        Misconfigured: there is none, or one can't be read.
    """
    from workers.pipeline.shadow.report import MAX_BYTES, parse

    found = [file for place in places for file in (sorted(place.glob("*.json")) if place.is_dir() else [place])]
    if not found:
        raise Misconfigured(f"there is no report in {places[0]}: {_WRITTEN}")
    for file in found:
        try:
            yield str(file), parse(read_regular_file(file, MAX_BYTES))
        except OSError as error:
            raise Misconfigured(f"{file} can't be read: {error.strerror}") from error
        except LargerThanReserved as error:
            raise Misconfigured(
                f"{file} is no report of a shadow tagger: it has more than {MAX_BYTES} bytes"
            ) from error
        except ValueError as error:
            raise Misconfigured(f"{file} is no report of a shadow tagger: {error}") from error


def _document(whole: ShadowReport, rule: PromotionRule, against: list[Objection], worst: int) -> Mapping[str, Any]:
    from workers.pipeline.shadow.verdict import judged, lost

    labels = list(judged(whole, rule).items())
    return {
        "may_be_promoted": not against,
        "objections": [asdict(each) for each in against],
        "rule": asdict(rule),
        **whole.model_dump(
            mode="json", exclude={"format", "labels", "only_live_has", "only_shadow_has", "jaccard_sum"}
        ),
        "mean_jaccard": whole.mean_jaccard,
        "tags": _tags(whole).model_dump(),
        "judged_labels": len(labels),
        "worst_labels": [
            {"name": name, **found.model_dump(), "agreement": found.share} for name, found in labels[:worst]
        ],
        "lost_labels": dict(list(lost(whole, rule).items())[:worst]),
    }


def _tags(whole: ShadowReport) -> TagCounts:
    """All tags of labels that both taggers have."""
    from workers.pipeline.shadow.report import TagCounts

    tags = TagCounts()
    for found in whole.labels.values():
        tags.add(found)
    return tags


def _print(whole: ShadowReport, rule: PromotionRule, against: list[Objection], worst: int) -> None:
    from workers.pipeline.shadow.verdict import judged, lost

    console = terminal.console()
    live, shadow = (f"{side.name} {side.digest[:12]}" for side in (whole.live, whole.shadow))
    since, until = (moment.strftime("%Y-%m-%d %H:%M") for moment in (whole.since, whole.until))
    tags = _tags(whole)
    console.print(terminal.text(f"live {live}, shadow {shadow}; workers: {len(whole.workers)}, {since} to {until} UTC"))
    console.print(f"{counted(whole.compared, 'image')} compared, {whole.dropped:,} dropped for want of time")
    console.print(
        f"tags: {tags.both:,} by both, {tags.live:,} by the live one alone, {tags.shadow:,} by the shadow alone"
    )
    console.print(
        f"of labels that only one has: {sum(whole.only_live_has.values()):,} by the live one, "
        f"{sum(whole.only_shadow_has.values()):,} by the shadow"
    )
    if whole.compared:
        console.print(f"mean Jaccard index {whole.mean_jaccard:.3f}")
        console.print(_distribution(whole))
    labels = judged(whole, rule)
    if labels and worst:
        console.print(_worst(labels, worst))
    for name, count in list(lost(whole, rule).items())[:worst]:
        console.print(terminal.text(f"{count:9,} × {name}, which the shadow does not have"))
    for each in against:
        console.print(terminal.text(f"✗ not to be promoted: {each.reason}", "red"))
        console.print(terminal.text(f"  next: {each.advice}"))
    if not against:
        console.print(terminal.text(f"✓ {whole.shadow.name} may be promoted", "green"))
        console.print("  next: name it in TAGSTREAM_TAGGER, unset TAGSTREAM_SHADOW_TAGGER, and roll that out")


def _distribution(whole: ShadowReport) -> Table:
    table = Table("Jaccard", "images", "", box=None, pad_edge=False)
    for number, count in enumerate(whole.jaccard):
        bounds = "1" if number == len(whole.jaccard) - 1 else f"{number / 10:g} to {(number + 1) / 10:g}"
        table.add_row(bounds, f"{count:,}", "█" * round(_BAR * count / whole.compared))
    return table


def _worst(labels: Mapping[str, TagCounts], most: int) -> Table:
    table = Table("worst labels", "both", "live alone", "shadow alone", "agreement", box=None, pad_edge=False)
    for name, found in list(labels.items())[:most]:
        counts = (f"{count:,}" for count in (found.both, found.live, found.shadow))
        table.add_row(terminal.text(name), *counts, f"{found.share:.0%}")
    return table
