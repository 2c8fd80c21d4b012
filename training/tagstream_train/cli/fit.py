"""`tagstream train fit`: a tagger that knows your own tags."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from tagstream_train.cli.common import (
    BucketOption,
    GroupsOption,
    HookOption,
    JsonOption,
    WorkOption,
    existing,
    note_skipped,
    progress,
    store,
)
from workers.assembly.bundles import check_free, describe
from workers.cli import terminal
from workers.cli.terminal import Replace, note, say
from workers.errors import Misconfigured
from workers.files import require_writable

if TYPE_CHECKING:
    from tagstream_train.fit.data import FitRun
    from tagstream_train.fit.run import Fitted

What = Literal["head", "lora", "all"]
Absent = Literal["negative", "unknown"]
_LR = {"lora": 3e-4, "all": 3e-5}
_SHOWN = 40
"""Labels in the table; the card has all that could get no threshold."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    data: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            help="Images with tags: a training set, or whatever `train import` reads (a folder for each tag, a CSV, "
            "COCO, …).",
            show_default=False,
        ),
    ] = None
    parent: Annotated[
        str | None,
        typer.Option(
            "--from", help="What to begin with: a bundle of RAM or RAM++, compact, or timm:NAME.", show_default=False
        ),
    ] = None
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The bundle's folder, to be made.", show_default=False)
    ] = None
    what: Annotated[
        What,
        typer.Option(
            help="head: classifiers beside the network, which stays: seconds once the images are encoded. lora: then "
            "the encoder adapts beneath them, merged at the end. all: everything learns; needs most."
        ),
    ] = "head"
    drop_labels: Annotated[
        bool, typer.Option("--drop-labels", help="Let compact or a network of timm know the set's labels alone.")
    ] = False
    images: Annotated[Path | None, existing("Where the images are, if not near the annotations.", folder=True)] = None
    validation_set: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="Images with tags that measure and do not teach, in any of these formats.",
            show_default=False,
        ),
    ] = None
    groups: GroupsOption = None
    absent: Annotated[
        Absent,
        typer.Option(
            help="A tag that an image is not said to have: negative, it lacks it; unknown needs absences in the set."
        ),
    ] = "negative"
    guard: Annotated[
        float, typer.Option(min=0, help="How strongly the bundle's other labels are kept as they are. 0 turns it off.")
    ] = 3.0
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Write the bundle even if its other labels lost over a point of mAP.")
    ] = False
    epochs: Annotated[int, typer.Option(min=1, help="How often at most lora and all see each image.")] = 10
    batch: Annotated[int, typer.Option(min=1, help="Images that are computed together.")] = 16
    accumulation: Annotated[int, typer.Option(min=1, help="Batches that make one step.")] = 1
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate: 3e-4 for lora, 3e-5 for all. A head has none.", show_default=False),
    ] = None
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bf16: faster on GPUs.")] = False
    rank: Annotated[int, typer.Option(min=1, max=1024, help="Rank of LoRA: how much it can learn.")] = 8
    precision_floor: Annotated[
        float | None,
        typer.Option(
            "--precision",
            min=0.01,
            max=1,
            help="Choose thresholds that keep this precision at --share, instead of the best F1.",
            show_default=False,
        ),
    ] = None
    negatives: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|s3://…|auto",
            help="Images of none of the labels, which teach and measure; a folder none beside the tags' is the same. "
            "auto: up to 2,000 drawn from the enriched topic, which only raise thresholds.",
            show_default=False,
        ),
    ] = None
    share: Annotated[
        float,
        typer.Option(
            min=1e-6, max=0.999, help="Assumed share of your images that has a label; precision depends on it."
        ),
    ] = 0.01
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")] = 0
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that a CPU computes with. By default one a core.", show_default=False),
    ] = None
    workers: Annotated[int, typer.Option(min=0, max=64, help="Threads that decode images.")] = 2
    run_file: Annotated[
        Path | None,
        # torchrun takes --run for one of its own
        existing("A run's TOML file, instead of all options above.", "--run-file"),
    ] = None
    bucket: BucketOption = None
    hook: HookOption = None
    work: WorkOption = None
    replace: Replace = False
    as_json: JsonOption = False


def fit(options: FitOptions) -> None:
    """Teach a tagger your own tags, with a threshold for each.

    New labels follow the bundle's labels, which are kept. A table shows both before and after, measured on images that
    did not teach. The memory is estimated first. After an interruption the same command resumes from the last
    checkpoint; WORK/run.toml repeats the run with --run-file.

    [dim]A folder for each tag, in minutes:[/]
    tagstream train fit photos --from bundles/ram -o bundles/mine
    [dim]Better, on a GPU:[/]
    tagstream train fit photos --from bundles/ram -o bundles/mine --what lora --bf16
    [dim]Then:[/]
    TAGSTREAM_TAGGER=bundles/mine tagstream run
    """
    from tagstream_train.fit.data import AUTO
    from tagstream_train.fit.run import fit as train
    from tagstream_train.record import find_hook

    if options.out is None:
        raise Misconfigured("Say where the bundle goes: -o FOLDER.")
    check_free(options.out, options.replace)
    run = _run(options)
    folder = options.work or options.out.with_name(f"{options.out.name}.work")
    require_writable(folder)
    drawn = _drawn() if run.negatives == AUTO else ()
    with progress() as tell:
        fitted = train(
            run,
            options.out,
            folder,
            store=store(options.bucket),
            drawn=drawn,
            hooks=[find_hook(name) for name in options.hook or ()],
            tell=tell,
            say=note,
            replace_existing=options.replace,
        )
    if fitted is None:
        return
    if options.as_json:
        say(terminal.as_json(_document(fitted)))
        return
    _show(fitted, run, folder)


def _drawn() -> list[str]:
    """Names of images of the enriched topic."""
    from tagstream_train.fit.drawn import Draw
    from workers.assembly.needs import needed
    from workers.assembly.topic_reading import read_topic

    settings, draw = needed("kafka_servers", "s3_endpoint"), Draw()
    read_topic(settings, settings.output_topic, lambda record: draw.take(record.value), counting=terminal.counting)
    if not draw.names:
        raise Misconfigured(f"{settings.output_topic} has no image to draw: leave --negatives auto out.")
    return draw.names


def _run(options: FitOptions) -> FitRun:
    """The run of a file, or of the options."""
    from tagstream_train.fit.data import FitRun
    from tagstream_train.plan import Plan, read_toml

    if options.run_file is not None:
        return read_toml(FitRun, options.run_file)
    if options.data is None or options.parent is None:
        raise Misconfigured("Say what to train on and what to begin with: DATA --from BUNDLE, or --run-file FILE.")
    plan = Plan(
        epochs=options.epochs,
        batch=options.batch,
        accumulation=options.accumulation,
        lr=options.lr or _LR.get(options.what, 1e-3),
        precision="bf16" if options.bf16 else "fp32",
        seed=options.seed,
        threads=options.threads,
    )
    values = {name: getattr(options, name) for name in FitRun.model_fields if hasattr(options, name)}
    texts = {name: str(value) for name, value in values.items() if isinstance(value, Path)}
    return FitRun(**values | texts, plan=plan)


def _show(fitted: Fitted, run: FitRun, folder: Path) -> None:
    from tagstream_train.fit.promise import measured_in

    console = terminal.console()
    say(describe(fitted.bundle))
    means = Table("mean average precision", "labels", "before", "after", "against", box=None, pad_edge=False)
    for row in fitted.rows:
        means.add_row(row.labels, str(row.count), _percent(row.before), _percent(row.after), row.truth)
    console.print(means)
    taught, measured = (fitted.card.data[part] for part in ("train", "validation"))
    say(f"images: {taught:,} teach, {measured:,} only measure, {len(fitted.skipped):,} left out")
    console.print(_labels(fitted, run.share))
    if len(fitted.thresholds) > _SHOWN:
        say(f"… and {len(fitted.thresholds) - _SHOWN:,} more (--json has all)")
    say(measured_in(fitted.closed, run.share))
    say(f"absent tags were taken as {run.absent}; {folder} has the run's file, its curves and its checkpoint")
    say(f"mistakes, and which labels want more images: {folder / 'report.html'}")
    note_skipped(fitted.skipped)
    if fitted.ended:
        say(fitted.ended)


def _labels(fitted: Fitted, share: float) -> Table:
    columns = ("label", "threshold", "images", f"precision at {share:.3g}", "95 % interval", "recall")
    labels = Table(*columns, box=None, pad_edge=False)
    for name, each in list(fitted.thresholds.items())[:_SHOWN]:
        kept = fitted.promises[name]
        numbers = (_percent(kept.precision), f"{_percent(kept.low)} to {_percent(kept.high)}", _percent(kept.recall))
        labels.add_row(
            terminal.text(name),
            f"{each.value:.2f}",
            str(each.positives),
            *((each.why, "", "") if each.why else numbers),
        )
    return labels


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1%}"


def _document(fitted: Fitted) -> dict[str, Any]:
    return {
        "bundle": str(fitted.bundle.folder),
        "digest": fitted.bundle.digest,
        "card": fitted.card.model_dump(mode="json"),
        "ended": fitted.ended,
        "thresholds": {name: each.value for name, each in fitted.thresholds.items()},
        "closed": fitted.closed,
        "promises": {name: asdict(each) for name, each in fitted.promises.items()},
        "skipped": dict(fitted.skipped),
    }
