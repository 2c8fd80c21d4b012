"""Retrieval in `tagstream train`: `evaluate --task retrieval`, and `finetune`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from schemas.printable import counted
from tagstream_train.cli.common import note_skipped, progress
from workers.cli import terminal
from workers.cli.terminal import note, say

if TYPE_CHECKING:
    from tagstream_train.cli.evaluate import EvaluateOptions
    from tagstream_train.evaluate import Benchmark, Opened


def evaluate(options: EvaluateOptions, data: Opened, benchmark: Benchmark | None) -> None:
    """Measure retrieval, and print it beside the paper's numbers."""
    from tagstream_train.retrieval import measure
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
