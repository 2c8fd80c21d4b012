"""What a start takes, and how much memory a worker then has: both beyond a bare `import torch`, on real servers.

    python -m benchmarks start
    BESIDE=/another/checkout python -m benchmarks start     that one's worker too, round by round

A start is from the exec of `tagstream run` to the first yes of /readyz, with the compact tagger in fp32: the bundle is
there, the bucket, the topics and the group's offsets too. The bare import is another Python, in the same round.
Processor time is that of the worker's own process, its decoders not counted; so is resident memory, which is read when
it is ready, and again when it has tagged some new photos. Where the time goes is read in the worker's log, and Python's
-X importtime tells which packages the imports are.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from urllib.error import URLError

from confluent_kafka import Producer
from rich.console import Console
from rich.table import Table

from benchmarks.cached import Outcomes, cpu_s, made_topics, send, uploaded, worker_settings
from tagstream_testing.local.stack import LocalStack
from tagstream_testing.local.worker_process import WorkerProcess

ROUNDS = 7
PHOTOS = 200
LIMIT_S = 120.0
PROBE_S = 0.02
PACKAGES = 14
"""Rows of the table of imports."""
_BARE = "import os, sys, torch; os.write(1, b'.'); sys.stdin.read()"
_MARK = "beyond torch"
_IMPORTS = f"""
import gc, sys, torch
gc.disable()
print({_MARK!r}, file=sys.stderr)
import workers.cli.app
workers.cli.app.command_tree('run')
import workers.service.telemetry, workers.service.http
import workers.models.compact, workers.assembly.composition, workers.backends.result_cache
"""
_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)")


STEPS = {
    "settings, telemetry": "serving /livez",
    "torch and all other imports": "loading the models",
    "model: loaded, warmed up": "tagstream ",
    "what is left of connections, group joined": "ready: joined",
}
"""The steps of a start, each with the beginning of the log line that ends it. Connections begin when models warm up."""


@dataclass(frozen=True)
class Start:
    """Of one process, until it was ready; `worked_mb` after it had tagged the photos; `steps_s` as in `STEPS`."""

    wall_s: float
    cpu_s: float
    ready_mb: float
    worked_mb: float = 0.0
    steps_s: tuple[float, ...] = ()


FIGURES: Sequence[tuple[str, str, Callable[[Start], float]]] = (
    ("ready", "s", lambda start: start.wall_s),
    ("processor time until then", "s", lambda start: start.cpu_s),
    ("resident when ready", "MB", lambda start: start.ready_mb),
    (f"resident after {PHOTOS} photos", "MB", lambda start: start.worked_mb or start.ready_mb),
)


class Starting(WorkerProcess):
    """The worker of a checkout."""

    def __init__(self, folder: Path, settings: Mapping[str, str], checkout: Path, options: Sequence[str] = ()) -> None:
        super().__init__(folder, settings)
        self._where = checkout
        self._options = options

    def command(self) -> Sequence[str]:
        return [sys.executable, *self._options, "-m", "workers", "run"]


def main() -> None:
    console = Console()
    checkouts = {"worker": Path.cwd()}
    if beside := os.environ.get("BESIDE"):
        checkouts["worker beside"] = Path(beside)
    found: dict[str, list[Start]] = {name: [] for name in ("import torch", *checkouts)}
    console.print(f"{ROUNDS} rounds in turn, {PHOTOS} photos; load before: {os.getloadavg()[0]:.1f}")
    with LocalStack() as stack:
        stack.furnish()
        events = uploaded(stack, PHOTOS)
        prepared = [prepared_worker(stack, name, checkout, events) for name, checkout in checkouts.items()]
        for turn in range(ROUNDS):
            found["import torch"].append(bare_import())
            for name, start in list(zip(checkouts, prepared, strict=True))[:: 1 if turn % 2 else -1]:
                found[name].append(start())
    bare = found.pop("import torch")
    table = Table("", "", f"median of {ROUNDS}", "beyond the import, round by round")
    for what, unit, of in FIGURES:
        base = [of(each) for each in bare]
        table.add_row(what, "import torch", shown(statistics.median(base), unit), "")
        for name, starts in found.items():
            values = [of(each) for each in starts]
            table.add_row("", name, shown(statistics.median(values), unit), spread(values, base, unit))
    console.print(table)
    steps = Table("step", *(f"{name}, median" for name in found))
    for number, step in enumerate(STEPS):
        steps.add_row(
            step, *(f"{statistics.median(s.steps_s[number] for s in starts):.2f} s" for starts in found.values())
        )
    console.print(steps)
    console.print(imported())
    console.print(f"load after: {os.getloadavg()[0]:.1f}")


def shown(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}" if unit == "s" else f"{value:.0f} {unit}"


def spread(values: Sequence[float], bases: Sequence[float], unit: str) -> str:
    """The difference's median and its range."""
    beyond = sorted(value - base for value, base in zip(values, bases, strict=True))
    return f"{shown(statistics.median(beyond), unit)} ({shown(beyond[0], unit)} to {shown(beyond[-1], unit)})"


def bare_import() -> Start:
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", _BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.read(1) != b".":
            raise SystemExit("torch does not import")
        return Start(time.perf_counter() - began, cpu_s(process.pid), resident_mb(process.pid))


def prepared_worker(stack: LocalStack, name: str, checkout: Path, events: Sequence[bytes]) -> Callable[[], Start]:
    """A start of this checkout's worker, and new photos for it, as often as it is called. Once it has run already."""
    group = re.sub("[^a-z]+", "-", name)
    topics = made_topics(stack, group)
    outcomes = Outcomes(stack.kafka.servers, topics["output"])
    producer = Producer({"bootstrap.servers": stack.kafka.servers})
    rounds = iter(range(1_000))

    def start() -> Start:
        # a namespace of its own for each start: the cache knows no photo
        own = {"TAGSTREAM_CACHE_NAMESPACE": f"{group}-{next(rounds)}"}
        worker = stack.add(Starting(stack.scratch.path / group, worker_settings(stack, topics) | own, checkout))
        began = datetime.now(UTC)
        took_s = until_ready(worker)
        pid = worker.pid
        assert pid is not None
        used_s, ready_mb = cpu_s(pid), resident_mb(pid)
        send(producer, topics["input"], events)
        outcomes.await_(len(events))
        found = Start(took_s, used_s, ready_mb, resident_mb(pid), steps_s(worker.log, began))
        worker.stop()
        worker.must_have_ended_well()
        worker.log.unlink()
        return found

    start()
    return start


def until_ready(worker: WorkerProcess) -> float:
    """Seconds from its exec to the first yes of /readyz."""
    began = time.perf_counter()
    worker.launch()
    while time.perf_counter() - began < LIMIT_S:
        with suppress(URLError, OSError):
            if worker.is_ready():
                return time.perf_counter() - began
        worker.must_run()
        time.sleep(PROBE_S)
    raise SystemExit(worker.complaint("was not ready in time"))


def imported() -> Table:
    """Which packages take how much of what a worker imports beyond torch, by their own modules' times."""
    command = [sys.executable, "-X", "importtime", "-c", _IMPORTS]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spent: Counter[str] = Counter()
    for us, module in _IMPORT.findall(said.partition(_MARK)[2]):
        spent[module.partition(".")[0]] += int(us)
    table = Table("imported beyond torch", "of all", "ms")
    for package, us in spent.most_common(PACKAGES):
        table.add_row(package, f"{us / spent.total():.0%}", f"{us / 1000:.0f}")
    return table


def steps_s(log: Path, began: datetime) -> tuple[float, ...]:
    """How long each of `STEPS` took, by the log."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    ends = [
        next(datetime.fromisoformat(line["time"]) for line in lines if line["message"].startswith(said))
        for said in STEPS.values()
    ]
    return tuple((end - start).total_seconds() for start, end in pairwise([began, *ends]))


def resident_mb(pid: int) -> float:
    return next(
        int(line.split()[1]) / 1024
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )


if __name__ == "__main__":
    main()
