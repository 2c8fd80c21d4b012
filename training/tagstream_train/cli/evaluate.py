"""`tagstream train evaluate`: measure a bundle on labelled images."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from schemas.printable import counted
from tagstream_train.cli.common import (
    BatchOption,
    BucketOption,
    DeviceOption,
    PrecisionOption,
    ThreadsOption,
    existing,
    note_skipped,
    progress,
    store,
)
from workers.cli import terminal
from workers.cli.terminal import note, say
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from tagstream_train.evaluate import Benchmark, Captioned, Opened, Tagged


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="`compact`, or a bundle's folder.")]
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A training set, or annotations in any format.")]
    format: Annotated[  # the name of the option
        str | None, typer.Option(help="As of `train import`. By default it is guessed.", show_default=False)
    ] = None
    images: Annotated[Path | None, existing("Where the images are.", folder=True)] = None
    labels: Annotated[Path | None, existing("The data's labels, one a line.")] = None
    absent: Annotated[
        Literal["negative", "unknown"],
        typer.Option(
            help="A label that is not mentioned for an image: negative, it lacks it; unknown, it does not count."
        ),
    ] = "negative"
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="One for all labels. By default the bundle's.", show_default=False),
    ] = None
    embeddings: Annotated[
        Path | None,
        existing("Open-set, for RAM and RAM++: text embeddings of the data's labels, in a safetensors file."),
    ] = None
    task: Annotated[
        Literal["tags", "captions", "retrieval"],
        typer.Option(help="What to measure; retrieval: how often images and their captions find each other."),
    ] = "tags"
    k: Annotated[int, typer.Option(min=1, help="Retrieval: the nearest that are ordered anew by matching.")] = 256
    rerank: Annotated[bool, typer.Option("--rerank/--no-rerank", help="Retrieval: order them anew.")] = True
    tags: Annotated[
        Literal["guided", "none"],
        typer.Option(help="Captions and retrieval: whether recognised tags guide the writing or the matching."),
    ] = "guided"
    rows: Annotated[int, typer.Option(min=0, help="Labels to show, the worst first.")] = 20
    batch: BatchOption = 16
    threads: ThreadsOption = 2
    device: DeviceOption = "auto"
    precision: PrecisionOption = "fp32"
    bucket: BucketOption = None
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON, with every label.")] = False


def evaluate(options: EvaluateOptions) -> None:
    """Measure a bundle's tags, captions or retrieval.

    Tags: mAP, macro precision and recall, a row for each label. Captions: BLEU and CIDEr. Retrieval: recall at 1, 5 and
    10 of images that look for their captions and of captions that look for their image, on the part `test` if the data
    has one. Its features stay in ~/.cache/tagstream/features: a second run decodes no image.

    Averages are over labels, so a rare one counts as much as a common one; a label that no image of the data has is
    left out. On a public evaluation set the papers' numbers stand below.

    [dim]Your own images:[/]  tagstream train evaluate bundles/pets parts/test

    [dim]As in the paper:[/]  tagstream train evaluate bundles/ram openimages_common_214_ram_annots.txt \
--images imgs --threshold 0.86

    [dim]Retrieval:[/]        tagstream train evaluate bundles/coco coco_karpathy_test.json --task retrieval
    """
    from tagstream_train.data.formats import Request
    from tagstream_train.evaluate import benchmark_of, open_data
    from workers.models.labels import read_names

    given = tuple(read_names(options.labels)) if options.labels else None
    opened = open_data(Request(options.data, options.images, given), options.format, store=store(options.bucket))
    known = benchmark_of(options.data.name)
    if options.task == "retrieval":
        _retrieval(options, opened, known)
        return
    bundle = options.bundle
    shown: dict[str, Any] = {"bundle": bundle, "data": str(options.data)}
    with ExitStack() as stack:
        if options.embeddings is not None:
            from tagstream_train.evaluate import open_set

            bundle = str(stack.enter_context(open_set(Path(bundle), options.embeddings, opened.labels)))
        if options.task == "captions":
            shown |= _caption_numbers(_captions(bundle, opened, options))
        else:
            shown |= _tag_numbers(_tags(bundle, opened, options), options.threshold)
    if options.as_json:
        shown |= {"papers": known.model_dump(exclude_none=True)} if known else {}
        say(terminal.as_json(shown))
        return
    _show(shown, known, options.rows)


def _tags(bundle: str, opened: Opened, options: EvaluateOptions) -> Tagged:
    from tagstream_train.evaluate import label_columns, score_tags
    from workers.models.load import load_tagger, open_bundle

    known = open_bundle(bundle).labels
    wanted = {known[label] for label in label_columns(known, opened.labels).values()}
    tagger = load_tagger(bundle, allow=wanted, device=options.device, precision=options.precision)
    with terminal.counting("images", len(opened.samples)) as count:
        return score_tags(
            tagger, opened, absent=options.absent, batch=options.batch, threads=options.threads, report=count
        )


def _captions(bundle: str, opened: Opened, options: EvaluateOptions) -> Captioned:
    from tagstream_train.evaluate import caption
    from workers.models.load import load_captioner, load_tagger, open_bundle, uses_of

    if "captioner" not in uses_of(open_bundle(bundle)):
        raise Misconfigured(f"{bundle} writes no captions; Tag2Text does.")
    how: dict[str, Any] = {"device": options.device, "precision": options.precision}
    captioner = load_captioner(bundle, **how)
    tagger = load_tagger(bundle, **how) if options.tags == "guided" else None
    total = sum(1 for sample in opened.samples if sample.captions)
    with terminal.counting("images", total) as count:
        return caption(captioner, tagger, opened, batch=options.batch, threads=options.threads, report=count)


def _retrieval(options: EvaluateOptions, data: Opened, benchmark: Benchmark | None) -> None:
    """Measure retrieval, and print it above the paper's numbers."""
    from tagstream_train.retrieval.measure import measure
    from workers.models.load import open_bundle
    from workers.models.ram.alignment import load_alignment

    bundle = open_bundle(options.bundle)
    alignment = load_alignment(bundle, device=options.device)
    k = options.k if options.rerank else None
    how = {"batch": options.batch, "threads": options.threads}
    with progress() as tell:
        found = measure(bundle, alignment, data, k=k, tags=options.tags == "guided", **how, tell=tell)
    known = benchmark.rows if benchmark and benchmark.images == found.images else ()
    if options.as_json:
        papers = [row.model_dump(exclude_none=True) for row in known]
        say(terminal.as_json({"bundle": options.bundle, "data": str(options.data), **asdict(found), "papers": papers}))
        return
    of = f"{counted(found.images, 'image')} and {counted(found.captions, 'caption')} of {options.data}"
    say(f"{options.bundle} on {of}")
    table = Table("recall at 1, 5, 10", "image to text", "text to image", "source", box=None, pad_edge=False)
    for name, both in ((f"best {k} re-ranked", found.reranked), ("vectors alone", found.contrast)):
        if both is not None:
            table.add_row(name, *("  ".join(f"{100 * part:.1f}" for part in recall) for recall in both), style="bold")
    for row in known:
        table.add_row(row.model, *(str(each or "") for each in (row.image_to_text, row.text_to_image)), row.source)
    terminal.console().print(table)
    if known and benchmark and benchmark.note:
        note(benchmark.note)
    note_skipped(found.skipped)


def _tag_numbers(tagged: Tagged, threshold: float | None) -> dict[str, Any]:
    table = tagged.table(threshold)
    mean = table.mean()
    per_label = [
        {
            "label": label,
            "images": int(table.positives[number]),
            **{name: _number(getattr(table, name)[number]) for name in ("ap", "precision", "recall", "f1")},
            "threshold": float(tagged.thresholds[number]) if threshold is None else threshold,
        }
        for number, label in enumerate(tagged.labels)
    ]
    return {
        "images": len(tagged.scores),
        "skipped": tagged.skipped,
        **{name: _number(getattr(mean, name)) for name in ("map", "precision", "recall", "f1")},
        "measured_labels": mean.measured,
        "labels": per_label,
        "unknown_labels": list(tagged.missing),
    }


def _caption_numbers(captioned: Captioned) -> dict[str, Any]:
    return {
        "images": len(captioned.captions),
        "skipped": captioned.skipped,
        "bleu": list(captioned.bleu),
        "cider": captioned.cider,
        "captions": dict(captioned.captions),
    }


def _show(shown: dict[str, Any], benchmark: Benchmark | None, rows: int) -> None:
    console = terminal.console()
    if "cider" in shown:
        say(f"{shown['bundle']} on {counted(shown['images'], 'image')} of {shown['data']}")
        columns = {"BLEU-4": "bleu4", "CIDEr": "cider"}
        mine: dict[str, Any] = {"bleu4": shown["bleu"][3], "cider": shown["cider"]}
    else:
        labels = counted(len(shown["labels"]) + len(shown["unknown_labels"]), "label")
        measured = f"{shown['measured_labels']:,} of {labels}"
        say(f"{shown['bundle']} on {counted(shown['images'], 'image')} of {shown['data']}, {measured}")
        columns = {"mAP": "map", "precision": "precision", "recall": "recall", "F1": "f1"}
        mine = shown
    table = Table("model", *columns, "source", box=None, pad_edge=False)
    table.add_row(terminal.text(shown["bundle"]), *(_percent(mine[key]) for key in columns.values()), style="bold")
    for row in benchmark.rows if benchmark else ():
        numbers = (getattr(row, key, None) for key in columns.values())
        table.add_row(row.model, *("" if each is None else f"{each:.1f}" for each in numbers), row.source)
    console.print(table)
    if "labels" in shown and rows:
        console.print(_per_label(shown["labels"], rows))
    _notes(shown, benchmark, rows)


def _per_label(labels: list[dict[str, Any]], rows: int) -> Table:
    table = Table("label", "images", "AP", "precision", "recall", "F1", "threshold", box=None, pad_edge=False)
    measured = sorted((row for row in labels if row["ap"] is not None), key=lambda row: float(row["ap"]))
    for row in measured[:rows]:
        numbers = (_percent(row[key]) for key in ("ap", "precision", "recall", "f1"))
        table.add_row(terminal.text(row["label"]), f"{row['images']:,}", *numbers, f"{row['threshold']:.3g}")
    return table


def _notes(shown: dict[str, Any], benchmark: Benchmark | None, rows: int) -> None:
    if benchmark and benchmark.note:
        note(benchmark.note)
    note_skipped(shown["skipped"])
    if unknown := shown.get("unknown_labels"):
        note(f"the model does not have {counted(len(unknown), 'label')} of the data, e.g. {unknown[0]}")
    measured = shown.get("measured_labels", 0)
    if 0 < rows < measured:
        note(f"{measured - rows:,} more labels: --rows {measured}, or --json")


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else float(value)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
