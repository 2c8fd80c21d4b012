"""Random deaths and freezes of workers and broker under load, for SOAK_MINUTES: `python -m tests.chaos.soak`.

Prints a line for each strike and writes build/soak-report.md: what was struck, the law at the end, and how the
workers' memory grew. Leaves with 1 when something was lost, came twice or was dead-lettered.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.broker import BrokerBehindProxy
from tests.chaos.line import is_committed
from tests.conftest import Stack
from tests.integration.worker_process import Site, WorkerProcess, eventually, photo
from workers.local.scratch import Scratch
from workers.local.seaweedfs import SeaweedFS
from workers.local.valkey import Valkey

_PICTURES = 40
_WORKERS = 2
_BACKLOG = 400
"""Records are sent so that about so many wait."""
_PATIENCE_S = 180.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Soak:
    """The site, its workers, and what happened to them."""

    site: Site
    broker: BrokerBehindProxy
    folder: Path
    chance: random.Random
    workers: list[WorkerProcess] = field(default_factory=list)
    strikes: Counter[str] = field(default_factory=Counter)
    memory: dict[int, list[tuple[float, int]]] = field(default_factory=dict)
    """Per process: (pictures done, resident bytes)."""
    sent: int = 0

    def start(self) -> None:
        for number in range(_PICTURES):
            self.site.upload(f"{number}.jpg", photo(number, 96))
        self.workers = [self._worker(number) for number in range(_WORKERS)]
        for process in self.workers:
            process.wait_ready()

    def feed(self) -> None:
        if self.sent - len(self.site.outcomes()) < _BACKLOG:
            self.site.send([(self.site.own(f"{number % _PICTURES}.jpg"), ()) for number in range(_BACKLOG)])
            self.sent += _BACKLOG

    def strike(self) -> str:
        number = self.chance.randrange(_WORKERS)
        faults: dict[str, Callable[[], None]] = {
            "worker killed": lambda: self._kill(number),
            "worker frozen": lambda: self._freeze(number),
            "broker frozen": self._freeze_broker,
            "broker restarted": self.broker.restart,
            "connections cut": lambda: _cut(self.broker),
        }
        name = self.chance.choices(list(faults), (6, 4, 2, 1, 2))[0]
        faults[name]()
        self.strikes[name] += 1
        return name

    def revive(self) -> None:
        """A worker that ended by itself is a finding, unless it was fenced after a freeze: it is started again."""
        for number, process in enumerate(self.workers):
            if (code := process.exit_code) is not None:
                self.strikes[f"worker ended by itself with {code}"] += 1
                self.workers[number] = self._worker(number)

    def sample(self) -> None:
        for process in self.workers:
            done, pid = process.metric("tagstream_outcomes_total"), process.pid
            if pid is not None:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                self.memory.setdefault(pid, []).append((done, pages * _PAGE))

    def end(self) -> None:
        eventually(lambda: is_committed(self.site), _PATIENCE_S, self.workers[0].said)
        for process in self.workers:
            process.terminate()

    def slope_mb(self) -> float | None:
        """Megabytes per 10,000 pictures of the process that lived longest, after its first fifth."""
        longest = max(self.memory.values(), key=len, default=[])
        settled = longest[len(longest) // 5 :]
        if len(settled) < 2 or settled[-1][0] <= settled[0][0]:
            return None
        return (settled[-1][1] - settled[0][1]) / 1e6 / (settled[-1][0] - settled[0][0]) * 10_000

    def _worker(self, number: int) -> WorkerProcess:
        return WorkerProcess(
            self.site,
            f"w{number}",
            self.folder,
            TAGSTREAM_KAFKA_SERVERS=self.broker.proxied,
            TAGSTREAM_REDIS_URL="",
            TAGSTREAM_KAFKA_SESSION_TIMEOUT_S="6",
            TAGSTREAM_RUN_OUTCOMES="20",
        )

    def _kill(self, number: int) -> None:
        self.workers[number].kill()
        self.workers[number] = self._worker(number)
        self.workers[number].wait_ready()

    def _freeze(self, number: int) -> None:
        process = self.workers[number]
        process.freeze()
        time.sleep(self.chance.uniform(1, 12))
        process.thaw()

    def _freeze_broker(self) -> None:
        self.broker.freeze()
        time.sleep(self.chance.uniform(1, 9))
        self.broker.thaw()


def _cut(broker: BrokerBehindProxy) -> None:
    broker.proxy.cut()


def main(minutes: float, seed: int) -> int:
    with Scratch() as scratch:
        broker = BrokerBehindProxy(scratch.path / "kafka")
        with (
            broker,
            SeaweedFS(scratch.path / "s3", scratch.will_litter) as s3,
            Valkey(scratch.path / "valkey") as valkey,
        ):
            soak = Soak(Site(Stack(broker, s3, valkey), "soak"), broker, scratch.path, random.Random(seed))
            try:
                _run(soak, minutes)
                return _report(soak, Path("build/soak-report.md"))
            finally:
                for process in soak.workers:
                    process.kill()


def _run(soak: Soak, minutes: float) -> None:
    soak.start()
    began = time.monotonic()
    while time.monotonic() - began < 60 * minutes:
        soak.feed()
        time.sleep(soak.chance.uniform(2, 6))
        soak.sample()
        name = soak.strike()
        soak.revive()
        _say(f"{time.monotonic() - began:6.0f} s  {name}")
    soak.end()


def _report(soak: Soak, path: Path) -> int:
    expected, found, letters = soak.site.inputs(), soak.site.outcomes(), soak.site.letters()
    lost, twice = len(set(expected) - set(found)), len(found) - len(set(found))
    slope = soak.slope_mb()
    summary = (
        f"{len(expected)} records, {soak.strikes.total()} strikes: {lost} lost, {twice} twice, "
        f"{len(letters)} dead-lettered."
    )
    lines = [
        "# Soak",
        "",
        summary,
        "",
        "| strike | times |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in soak.strikes.most_common()),
        "",
        "Memory: " + ("too short a life to tell." if slope is None else f"{slope:+.1f} MB per 10,000 pictures."),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    _say(summary)
    return 1 if lost or twice or letters else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(float(os.environ.get("SOAK_MINUTES", "30")), int(os.environ.get("SOAK_SEED", "1"))))
