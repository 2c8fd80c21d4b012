"""What an embedding costs beside the tags: the same worker and images, asked for tags alone and for both, in turn.

A small RAM of random weights, so that what is measured is not the model but what comes on top of it: taking the vector,
rounding, encoding and publishing it. Dependencies are in memory, and nothing is cached. Processor time says more than
events a second on a machine that others use too.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.line import DECODERS, photo, running_worker, stored
from workers.backends.result_cache import NoCache
from workers.intake import Limits, ThreadIntake
from workers.models.load import load_tagger
from workers.models.ram.config import HeadConfig, RamConfig, SwinConfig
from workers.models.ram.random_bundle import random_bundle

EVENTS = 1_000
ROUNDS = 12
LOT = 100
"""Events between two changes from one to the other: what else the machine does meets both alike."""
SIZES = RamConfig(
    SwinConfig(image_size=64, width=32, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=4),
    labels=200,
    head=HeadConfig(width=128, heads=2, layers=2, hidden=256),
)
BOTH = "tags and embedding"
WANTED = {"tags": ["tags"], BOTH: ["tags", "embedding"]}


def main(events: int = EVENTS, rounds: int = ROUNDS, lot: int = LOT) -> dict[str, float]:
    """Prints the table; returns how many times as long as with tags alone: the median of each measure."""
    images = [photo(seed, side=96) for seed in range(lot)]
    rounds_of = [_Round() for _ in range(rounds)]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        bundle = random_bundle("ram", Path(folder) / "ram", config=SIZES)
        tagger = load_tagger(bundle.folder, device="cpu", precision="fp32", threads=1)
        intake = ThreadIntake(stored(images), [tagger.transform], Limits(), decode_threads=DECODERS)
        with running_worker(tagger, images, intake, NoCache()) as rate:
            rate(want=WANTED[BOTH])  # the first of all is slower
            for each in rounds_of:
                for turn in range(events // lot):
                    for name in list(WANTED)[:: 1 if turn % 2 else -1]:
                        before_s = time.process_time()
                        each.seconds[name] += lot / rate(want=WANTED[name])
                        each.processor_s[name] += time.process_time() - before_s
    elapsed = sorted(each.seconds[BOTH] / each.seconds["tags"] for each in rounds_of)
    effort = sorted(each.processor_s[BOTH] / each.processor_s["tags"] for each in rounds_of)
    table = Table("to tags alone", "median", "by round")
    for name, ratios in (("time", elapsed), ("processor time", effort)):
        table.add_row(name, f"{statistics.median(ratios):.3f}", f"{ratios[0]:.3f} to {ratios[-1]:.3f}")
    console = Console()
    console.print(
        f"{BOTH}: {rounds} rounds of {events:,} events, and as many for tags alone, in lots of {lot} in turn; "
        f"load before: {load:.1f}"
    )
    console.print(table)
    return {"time": statistics.median(elapsed), "processor time": statistics.median(effort)}


@dataclass
class _Round:
    """Seconds of all its lots, by what was asked for."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    processor_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
