"""How well the compact tagger's embedding finds like photographs, and what it costs.

    python -m benchmarks alike PHOTOS

PHOTOS: one photograph of each class of ImageNet, their names in the order of the classes. Two are alike if their labels
share a parent. The cost is the processor time of the same batches with the embedding and without, in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from workers.intake.transform import decode
from workers.models.compact import CompactTagger, build_tagger, compact_bundle
from workers.models.device import choose_device
from workers.pipeline.embedding import EmbeddingRole
from workers.types import Pixels

NEAREST = 5
BATCH = 16


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks alike")
    parser.add_argument("photos", type=Path, help="a folder of photographs, one a class")
    parser.add_argument("--rounds", type=int, default=100, help="batches of each kind")
    options = parser.parse_args(arguments)
    bundle, device = compact_bundle(), choose_device("cpu", threads=1)
    tagger = build_tagger(bundle, device, "fp32")
    unnamed = bundle.manifest.provenance.model_copy(update={"sha256": None})
    plain = build_tagger(
        replace(bundle, manifest=bundle.manifest.model_copy(update={"provenance": unnamed})), device, "fp32"
    )
    assert isinstance(tagger, CompactTagger)
    assert not isinstance(plain, CompactTagger)
    paths = sorted(path for path in options.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    images = [decode(path.read_bytes(), "jpeg", [tagger.transform]).pixels[tagger.transform] for path in paths]
    role, console = EmbeddingRole(tagger), Console(width=120)
    features = unit(np.stack(tagger.features(images)))
    made = [role.finish(each) for each in tagger.embed(images)]
    vectors = np.stack([np.frombuffer(each.data, "<f2") for each in made]).astype(np.float32)
    table = Table(
        "", "of the five nearest share a parent", "share the nearest one", title=f"{len(paths):,} photographs"
    )
    rows = {"1,280 numbers": features, "their square roots": unit(np.sqrt(features)), "the embedding": vectors}
    for name, each in rows.items():
        table.add_row(name, *(f"{share:.4f}" for share in alike(each, bundle.parents)))
    console.print(table, f"{len(made[0].encode())} bytes a record", measured(tagger, plain, images, options.rounds))

    def rest(batch: Sequence[Pixels]) -> None:
        for each in tagger.embed(batch):
            found = role.finish(each)
            role.pack(found), found.encode()

    tagger.forward(images[:BATCH])
    console.print(
        f"rounding, packing and the header: {statistics.median(spent(rest, images[:BATCH]) for _ in range(100)):.4f} ms"
    )
    return 0


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def alike(vectors: NDArray[np.float32], parents: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Shares of the five nearest of each that have any parent of it, and its nearest parent; of length 1."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    nearest = np.argsort(-cosines, axis=1)[:, :NEAREST]
    pairs = [(parents[one], parents[other]) for one, others in enumerate(nearest) if parents[one] for other in others]
    return (
        statistics.mean(bool({*mine} & {*theirs}) for mine, theirs in pairs),
        statistics.mean(mine[0] in theirs for mine, theirs in pairs),
    )


def spent(run: Callable[[Sequence[Pixels]], object], batch: Sequence[Pixels]) -> float:
    """Milliseconds of processor time an image."""
    began = time.process_time()
    run(batch)
    return 1e3 * (time.process_time() - began) / len(batch)


def measured(tagger: CompactTagger, plain: object, images: Sequence[Pixels], rounds: int) -> str:
    """The median of the differences between batches with and without."""
    runs = [plain.forward, lambda batch: (tagger.forward(batch), tagger.embed(batch))]  # type: ignore[attr-defined]
    found = []
    with torch.inference_mode():
        for turn in range(rounds):
            at = turn * BATCH % (len(images) - BATCH)
            batch = images[at : at + BATCH]
            order = (0, 1) if turn % 2 else (1, 0)
            times = {which: spent(runs[which], batch) for which in order}
            found.append((times[0], times[1]))
    without, added = statistics.median(one for one, _ in found), sorted(both - one for one, both in found)
    low, middle, high = (added[round(share * (rounds - 1))] for share in (0.25, 0.5, 0.75))
    return f"{without:.2f} ms an image without; the embedding adds {middle:.3f} ms (quartiles {low:.3f} to {high:.3f})"
