"""What it costs to decode in child processes: the same worker with either form of the intake, in turn, in one run.

Decoders, images and model are the same. Processor time says more than images a second on a machine that others
use too. Also what the copy out of the shared memory takes, next to a decode.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.line import DECODERS, IMAGES, photo, stored, worker_rates
from tagstream_testing.memory import MemoryObjectStore
from workers.intake import Limits, ProcessIntake, ThreadIntake
from workers.intake.processes.shared_memory import Layout, Region, make_shared_memory
from workers.intake.transform import decode
from workers.models.load import load_tagger
from workers.ports import Tagger
from workers.types import Transform

ROUNDS = 7


def main() -> None:
    console = Console()
    tagger = load_tagger("compact", device="cpu", precision="fp32")
    tagger.warm_up()
    images = [photo(seed) for seed in range(IMAGES)]
    load = os.getloadavg()[0]
    console.print(f"{IMAGES} JPEGs of 512 x 512, {DECODERS} decoders, {ROUNDS} rounds in turn; load before: {load:.1f}")
    rates: dict[str, list[float]] = {name: [] for name in FORMS}
    seconds: dict[str, list[float]] = {name: [] for name in FORMS}
    for turn in range(ROUNDS):
        for name in list(rates)[:: 1 if turn % 2 else -1]:
            rate, cpu_s = _round(name, tagger, images)
            rates[name].append(rate)
            seconds[name].append(cpu_s)
    table = Table("", "images/s (median)", "to threads, round by round", "processor time to threads")
    for name in rates:
        speed, effort = _ratios(rates[name], rates["threads"]), _ratios(seconds[name], seconds["threads"])
        table.add_row(name, f"{statistics.median(rates[name]):.0f}", speed, effort)
    console.print(table)
    console.print(
        f"copying an image out of the shared memory takes {_copy_to_decode(tagger, images):.2%} of decoding it"
    )


class CountedThreads(ThreadIntake):
    """Has no children that use the processors beside this process."""

    cpu_s = 0.0

    def begin(self) -> None:
        return


class CountedProcesses(ProcessIntake):
    """Knows what its children used of the processors, from when all were up until it was closed."""

    def begin(self) -> None:
        while len(self.pids) < DECODERS:
            time.sleep(0.01)
        self._before_s = self._cpu_s()
        self.cpu_s = 0.0

    def close(self) -> None:
        self.cpu_s = self.cpu_s or self._cpu_s() - self._before_s
        super().close()

    def _cpu_s(self) -> float:
        fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids)
        return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def _threads(store: MemoryObjectStore, transform: Transform) -> CountedThreads:
    return CountedThreads(store, [transform], Limits(), decode_threads=DECODERS)


def _processes(store: MemoryObjectStore, transform: Transform) -> CountedProcesses:
    return CountedProcesses(store, [transform], Limits(), children=DECODERS)


FORMS: Mapping[str, Callable[[MemoryObjectStore, Transform], CountedThreads | CountedProcesses]] = {
    "threads": _threads,
    "processes": _processes,
}


def _round(name: str, tagger: Tagger, images: Sequence[bytes]) -> tuple[float, float]:
    """Images a second, and seconds of processor time of all processes together."""
    intake = FORMS[name](stored(images), tagger.transform)
    intake.begin()
    before_s = time.process_time()
    rate = worker_rates(tagger, images, intake)[0]
    cpu_s = time.process_time() - before_s
    return rate, cpu_s + intake.cpu_s


def _ratios(values: Sequence[float], bases: Sequence[float]) -> str:
    ratios = sorted(value / base for value, base in zip(values, bases, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def _copy_to_decode(tagger: Tagger, images: Sequence[bytes]) -> float:
    layout = Layout((tagger.transform,))
    shared = make_shared_memory(layout)
    region = Region(shared, layout)
    os.close(shared)
    decodes, copies = [], []
    for body in images:
        began = time.perf_counter()
        image = decode(body, "jpeg", layout.transforms)
        decoded = time.perf_counter()
        region.write(0, image)
        written = time.perf_counter()
        region.read(0)
        copies.append(time.perf_counter() - written)
        decodes.append(decoded - began)
    return statistics.median(copies) / statistics.median(decodes)
