"""How well the compact tagger's embedding finds like photographs, and what it costs.

    python -m benchmarks alike PHOTOS

PHOTOS: one photograph of each class of ImageNet, their names in the order of the classes. Two are alike if their labels
share a parent. The cost is the processor time of the same batches with the embedding and without, in turn, behind the
convolutions, whose own time differs by more from batch to batch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from workers.intake.transform import decode
from workers.models.bundle import Bundle
from workers.models.compact import (
    FEATURES,
    CompactTagger,
    EfficientNetLite0,
    build_tagger,
    compact_bundle,
    projection_of,
)
from workers.models.device import choose_device
from workers.pipeline.embedding import EmbeddingRole

NEAREST = 5
BATCH = 16


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks alike")
    parser.add_argument("photos", type=Path, help="a folder of photographs, one a class")
    parser.add_argument("--rounds", type=int, default=400, help="batches of each kind")
    options = parser.parse_args(arguments)
    bundle, device = compact_bundle(), choose_device("cpu", threads=1)
    tagger = build_tagger(bundle, device, "fp32")
    assert isinstance(tagger, CompactTagger)
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
    batch = images[:BATCH]
    whole = spent(lambda: tagger.forward(batch), options.rounds // 10)
    without, both = network_s(bundle, options.rounds)

    def publish() -> None:
        for each in tagger.embed(batch):
            found = role.finish(each)
            role.pack(found), found.encode()

    console.print(table, f"{len(made[0].encode())} bytes a record; processor time an image in batches of {BATCH}:")
    console.print(
        f"the tags {whole:.2f} ms, of which behind the convolutions {without:.4f} ms, with the embedding {both:.4f} ms"
    )
    console.print(f"rounding, packing and the header {spent(publish, options.rounds):.4f} ms")
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


def spent(run: Callable[[], object], rounds: int = 1) -> float:
    """Milliseconds of processor time an image of a batch: the median."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        run()
        times.append(1e3 * (time.process_time() - began) / BATCH)
    return statistics.median(times)


def network_s(bundle: Bundle, rounds: int) -> tuple[float, float]:
    """What the network takes behind its convolutions, without and with the embedding, in turn: the medians."""
    network = EfficientNetLite0(bundle.weights(), len(bundle.labels)).eval().requires_grad_(False)
    network.features = nn.Sequential()
    projections = (None, projection_of(network.classifier.weight))
    maps = torch.rand(BATCH, FEATURES, 7, 7).to(memory_format=torch.channels_last)
    found: tuple[list[float], list[float]] = [], []
    with torch.inference_mode():
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                network.projection = projections[which]
                found[which].append(spent(lambda: network(maps).numpy()))
    return statistics.median(found[0]), statistics.median(found[1])
