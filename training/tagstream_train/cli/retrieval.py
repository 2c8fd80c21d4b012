"""Retrieval in `tagstream train`: `evaluate --task retrieval`, and `finetune`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from schemas.printable import counted
from tagstream_train.cli.common import (
    ArgumentOfSet,
    BucketOption,
    HookOption,
    JsonOption,
    WorkOption,
    note_skipped,
    progress,
)
from tagstream_train.cli.pretrain import carry_out
from workers.cli import terminal
from workers.cli.terminal import Replace, note, say

if TYPE_CHECKING:
    from tagstream_train.cli.evaluate import EvaluateOptions
    from tagstream_train.evaluate import Benchmark, Opened


def evaluate(options: EvaluateOptions, data: Opened, benchmark: Benchmark | None) -> None:
    """Measure retrieval, and print it beside the paper's numbers."""
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
    say("seconds: " + ", ".join(f"{stage} {spent:.1f}" for stage, spent in found.seconds.items()))
    if known and benchmark and benchmark.note:
        note(benchmark.note)
    note_skipped(found.skipped)


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    dataset: ArgumentOfSet
    parent: Annotated[Path, typer.Option("--from", metavar="BUNDLE", help="A Tag2Text with an alignment part.")]
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle's folder, to be made.")]
    task: Annotated[Literal["retrieval"], typer.Option(help="What to train for.")] = "retrieval"
    epochs: Annotated[int, typer.Option(min=1, help="How often each image is seen, with one of its captions.")] = 30
    batch: Annotated[int, typer.Option(min=1, help="Pairs that are computed together, in each process.")] = 32
    accumulation: Annotated[int, typer.Option(min=1, help="Batches that make one step.")] = 1
    lr: Annotated[float, typer.Option(help="Learning rate, which falls to 0 by a cosine.")] = 1e-5
    augment: Annotated[
        Literal["paper", "flip", "none"], typer.Option(help="Changes of images: as in pre-training, flips alone, none.")
    ] = "paper"
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bf16: faster on GPUs.")] = False
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")] = 0
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode images.")] = 2
    bucket: BucketOption = None
    hook: HookOption = None
    work: WorkOption = None
    replace: Replace = False
    as_json: JsonOption = False


def finetune(options: FinetuneOptions) -> None:
    """Fine-tune a Tag2Text for retrieval, and write a bundle.

    Trains its network and its alignment part to tell an image's captions from others. Its tags and captions change with
    the network: measure them too. Interrupted, the same command goes on from the last checkpoint.

    [dim]On COCO:[/]
    tagstream train import coco_karpathy_train.json --images coco -o coco
    tagstream train finetune coco --from bundles/tag2text -o bundles/coco --bf16
    tagstream train evaluate bundles/coco coco_karpathy_test.json --images coco --task retrieval
    """
    from tagstream_train.plan import Plan
    from tagstream_train.retrieval.finetune import retrieval_run
    from workers.models.bundle import Bundle

    plan = Plan(
        epochs=options.epochs,
        batch=options.batch,
        accumulation=options.accumulation,
        lr=options.lr,
        clip=0.0,
        precision="bf16" if options.bf16 else "fp32",
        seed=options.seed,
    )
    carry_out(options, retrieval_run(Bundle.open(options.parent), plan, options.augment))
