"""What it costs to decode in child processes: the same worker with either form of the intake, in turn, in one run.

Decoders, pictures and model are the same. Also what the copy out of the shared slab takes, next to a decode.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.line import DECODERS, PICTURES, photo, stored, worker_rates
from workers.backends.memory import MemoryObjectStore
from workers.intake import Limits, ProcessIntake, ThreadIntake
from workers.intake.processes.slab import Layout, Region, make_slab
from workers.intake.transform import decode
from workers.models.load import load_tagger
from workers.ports import Intake, Tagger

ROUNDS = 7


def main() -> None:
    console = Console()
    tagger = load_tagger("compact", device="cpu", precision="fp32")
    tagger.warm_up()
    pictures = [photo(seed) for seed in range(PICTURES)]
    load = os.getloadavg()[0]
    console.print(
        f"{PICTURES} JPEGs of 512 x 512, {DECODERS} decoders, {ROUNDS} rounds in turn; load before: {load:.1f}"
    )
    forms: dict[str, Callable[[], Intake]] = {
        "threads": lambda: ThreadIntake(stored(pictures), [tagger.transform], Limits(), decode_threads=DECODERS),
        "processes": lambda: _warm(ProcessIntake(some_photos, [tagger.transform], Limits(), children=DECODERS)),
    }
    rates: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(ROUNDS):
        for name in list(forms)[:: 1 if turn % 2 else -1]:
            rates[name].append(worker_rates(tagger, pictures, forms[name]())[0])
    table = Table("", "pictures/s (median)", "to threads, round by round")
    for name in forms:
        ratios = sorted(rate / other for rate, other in zip(rates[name], rates["threads"], strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        table.add_row(name, f"{statistics.median(rates[name]):.0f}", spread)
    console.print(table)
    console.print(f"copying a picture out of the slab takes {_copy_to_decode(tagger, pictures):.2%} of decoding it")


@functools.cache
def some_photos() -> MemoryObjectStore:
    """A child's own store. Its pictures are drawn there, because a plan has no room for them."""
    return stored([photo(seed) for seed in range(PICTURES)])


def _warm(intake: ProcessIntake) -> ProcessIntake:
    """Its children are up: a worker starts once, and this is about what follows."""
    while len(intake.pids) < DECODERS:
        time.sleep(0.01)
    return intake


def _copy_to_decode(tagger: Tagger, pictures: Sequence[bytes]) -> float:
    layout = Layout((tagger.transform,))
    slab = make_slab(layout, 1)
    region = Region(slab, layout, 0)
    os.close(slab)
    decodes, copies = [], []
    for body in pictures:
        began = time.perf_counter()
        picture = decode(body, "jpeg", layout.transforms)
        decoded = time.perf_counter()
        region.write(0, picture)
        written = time.perf_counter()
        region.read(0)
        copies.append(time.perf_counter() - written)
        decodes.append(decoded - began)
    return statistics.median(copies) / statistics.median(decodes)
