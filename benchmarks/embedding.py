"""What an embedding costs beside the tags: the same worker and images, for tags alone and for both, in turn.

A small RAM of random weights, so that what is measured is not the model but what comes on top of it: taking the vector,
rounding, encoding and publishing it. Dependencies are in memory, and nothing is cached. Processor time says more than
events a second on a machine that others use too.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.line import photo, running_worker, stored
from tests.support.inline_intake import ThreadedIntake
from workers.backends.scoped_cache import NoCache
from workers.models.load import load_tagger
from workers.models.ram.config import HeadConfig, RamConfig, SwinConfig
from workers.models.ram.importer import random_bundle

EVENTS = 1_000
ROUNDS = 8
LOT = 100
"""Events between two changes from one to the other: what else the machine does meets both alike."""
SIZES = RamConfig(
    SwinConfig(image_size=64, width=32, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=4),
    labels=200,
    head=HeadConfig(width=128, heads=2, layers=2, hidden=256),
)
BOTH = "tags and embedding"
WANTED = {"tags": ["tags"], "tags again": ["tags"], BOTH: ["tags", "embedding"]}
"""The second tells what is noise."""


def main(events: int = EVENTS, rounds: int = ROUNDS, lot: int = LOT) -> dict[str, float]:
    """Prints the table; returns how many times the processor time of tags alone each takes: the median."""
    images = [photo(seed, side=96) for seed in range(lot)]
    rounds_of = [_Round() for _ in range(rounds)]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        bundle = random_bundle("ram", Path(folder) / "ram", config=SIZES)
        tagger = load_tagger(bundle.folder, device="cpu", precision="fp32", threads=1)
        intake = ThreadedIntake(stored(images), [tagger.transform])
        with running_worker(tagger, images, intake, NoCache()) as rate:
            rate(want=WANTED[BOTH])  # the first of all is slower
            gc.collect()
            gc.freeze()  # as the worker's process does; a full collection in one lot and not in others is all noise
            for each in rounds_of:
                for turn in range(events // lot):
                    for name in sorted(WANTED, key=lambda name: (list(WANTED).index(name) + turn) % len(WANTED)):
                        before_s = time.process_time()
                        each.seconds[name] += lot / rate(want=WANTED[name])
                        each.processor_s[name] += time.process_time() - before_s
    found = {name: _to_tags(name, rounds_of) for name in list(WANTED)[1:]}
    table = Table("to tags alone, round by round", "time", "processor time")
    for name, (elapsed, effort) in found.items():
        table.add_row(name, _spread(elapsed), _spread(effort))
    console = Console()
    console.print(f"{rounds} rounds of {events:,} events of each, in lots of {lot} in turn; load before: {load:.1f}")
    console.print(table)
    return {name: statistics.median(effort) for name, (_, effort) in found.items()}


@dataclass
class _Round:
    """Seconds of all its lots, by wanted result."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    processor_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


def _to_tags(name: str, rounds: Sequence[_Round]) -> tuple[list[float], list[float]]:
    """How many times as long as tags alone it took in each round, and how many times the processor time."""
    return (
        sorted(each.seconds[name] / each.seconds["tags"] for each in rounds),
        sorted(each.processor_s[name] / each.processor_s["tags"] for each in rounds),
    )


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
