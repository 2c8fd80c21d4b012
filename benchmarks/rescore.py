"""How long new labels take on stored vectors, beside the bare product of the same numbers.

    OMP_NUM_THREADS=1 python -m benchmarks.rescore [VECTORS [LABELS [ROUNDS]]]     a million, 1,000 and 3 by default

The vectors are float16 in a file (1.5 GB), as headers carry them; scoring reads, widens, multiplies, and gathers what
reaches the floor, about one label of a hundred. The product alone is of numbers that are in memory. The two take turns,
65,536 vectors each.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from workers.models.bundle import Bundle
from workers.models.dual.adapters import VECTORS, A, B
from workers.models.dual.config import DualConfig, TowerConfig
from workers.models.dual.importer import manifest_of
from workers.models.dual.rescoring import PIECE, LabelHead
from workers.models.manifest import Provenance

WIDTH = 768
TURN = 65_536


def main(count: int = 1_000_000, labels: int = 1_000, rounds: int = 3) -> None:
    with tempfile.TemporaryDirectory() as folder:
        head = LabelHead(_bundle(Path(folder) / "bundle", labels))
        stored = _vectors(Path(folder) / "vectors", count)
        weights, rows = head._weights, stored[:PIECE].astype(np.float32)
        logits = np.empty((PIECE, labels), np.float32)
        found = 0

        def product(size: int) -> None:
            for start in range(0, size, PIECE):
                here = min(PIECE, size - start)
                np.matmul(rows[:here], weights, out=logits[:here])

        def scores(part: NDArray[np.float16]) -> None:
            nonlocal found
            found += sum(len(piece.labels) for piece in head.pieces(part))

        times = []
        for _ in range(rounds):
            parts = [stored[start : start + TURN] for start in range(0, count, TURN)]
            turns = [(_seconds(partial(product, len(part))), _seconds(partial(scores, part))) for part in parts]
            times.append([sum(each) for each in zip(*turns, strict=True)])
        bare, whole = min(times, key=lambda each: each[1] / each[0])
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        told = (
            f"{count:,} vectors of {WIDTH} × {labels:,} labels, processor seconds of the best of {rounds} rounds:",
            f"product {bare:.1f}, scores {whole:.1f}: {whole / bare:.2f} times",
            f"{found / rounds / count:.1f} labels a vector reach the floor",
            f"ratios by round: {', '.join(f'{each[1] / each[0]:.2f}' for each in times)}; {most:.1f} GB at most",
        )
        sys.stdout.write("\n".join((*told, "")))


def _seconds(run: Callable[[], None]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def _bundle(folder: Path, labels: int) -> Bundle:
    """Label vectors alone: the head reads nothing else."""
    tower = TowerConfig(WIDTH, 4 * WIDTH, 12, 12)
    config = DualConfig("siglip", "bench", 224, 16, tower, tower, 256_000, 64, WIDTH, 4.7, -15.9)
    vectors = F.normalize(torch.randn(labels, WIDTH, generator=torch.Generator().manual_seed(1)), dim=1)
    weights = {VECTORS: vectors, A: torch.ones(labels), B: torch.full((labels,), 2.1)}
    manifest = manifest_of(config, "bench", Provenance(source="benchmarks/rescore.py", random=True))
    return Bundle.write(folder, manifest, weights=weights, labels=[f"label {number}" for number in range(labels)])


def _vectors(path: Path, count: int) -> NDArray[np.float16]:
    """Random vectors of length 1 in a file, without taking the file's size of memory."""
    stored = np.memmap(path, np.float16, "w+", shape=(count, WIDTH))
    rng = np.random.default_rng(0)
    for start in range(0, count, PIECE):
        rows = rng.standard_normal((min(PIECE, count - start), WIDTH), np.float32)
        stored[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return stored


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
