"""Random deaths and freezes of workers and broker under load: `python -m tests.chaos.soak`.

Strikes come in bursts of one to three, some during the effects of the last one; after each burst every partition has to
move again. One worker, the witness, is never struck: it lives as long as the soak. After each fifth of the strikes the
others leave, and it processes some loads alone while its memory is measured, which shows growth by images and by
faults. There is no cache: every event fetches its object, and equal images in flight are decoded and annotated once.

Prints a line for each burst and writes build/soak-report.md. SOAK_STRIKES is the number of strikes, SOAK_MINUTES the
most minutes, SOAK_SEED the seed. Exits with 1 when a promise was broken.
"""

import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tagstream_testing.local.scratch import Scratch
from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.local.valkey import Valkey
from tests.chaos.markers import Offsets
from tests.chaos.soak_findings import Findings
from tests.fixtures import Stack
from tests.support.broker import BrokerBehindProxy
from tests.support.processes import Growth
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo

IMAGES = 40
VICTIMS = 2
PARTITIONS = 6
_BACKLOG = 600
"""A strike falls while at least half as many records wait."""
_PATIENCE_S = 180.0
_RESTS = 5
"""How many times the witness is looked at, all over the strikes. It is not before the first of them: Python keeps the
room of the fullest moment, and strikes make that (outcomes wait in its ledgers while the broker is frozen)."""
_JUDGED_FROM = 50
"""Fewer strikes than these say nothing of memory: the fullest moment may come after the first look."""
_LOADS, _LOAD = 4, 2_000
"""Loads of this many records each that it processes alone."""


@dataclass(frozen=True)
class Plan:
    """The number of strikes, the most minutes, the seed, and whether to judge the witness's memory."""

    strikes: int
    minutes: float
    seed: int
    memory: bool


class Soak:
    """Victims, a witness, a broker that is struck too, and a record of the strikes."""

    def __init__(
        self, site: Site, broker: BrokerBehindProxy, folder: Path, plan: Plan, say: Callable[[str], None]
    ) -> None:
        self._site = site
        self._broker = broker
        self._folder = folder
        self._plan = plan
        self._say = say
        self._chance = random.Random(plan.seed)
        self._victims: list[WorkerProcess] = []
        self._offsets = Offsets(site)
        self._findings = Findings()

    def run(self) -> Findings:
        """Run the whole soak and return its findings. No worker is left."""
        for number in range(IMAGES):
            self._site.upload(f"{number}.jpg", photo(number, 96))
        witness = self._worker("witness")
        try:
            with self._offsets:
                self._run(witness)
        finally:
            for process in (witness, *self._victims):
                process.kill()
        return self._findings

    def _run(self, witness: WorkerProcess) -> None:
        witness.wait_ready()
        assert witness.pid is not None
        growth = Growth(witness.pid, lambda: witness.metric("tagstream_outcomes_total"))
        rests = _RESTS if self._plan.memory else 1
        began = time.monotonic()
        for rest in range(1, rests + 1):
            self._victims = [self._worker(f"victim-{number}") for number in range(VICTIMS)]
            for process in self._victims:
                process.wait_ready()
            self._struck_again_and_again(witness, self._plan.strikes * rest // rests, began)
            for process in self._victims:
                self._dismiss(process)
            self._caught_up(witness)
            if self._plan.memory:
                self._work_off_alone(witness, growth)
        if self._plan.memory:
            self._findings.judge_memory(growth)
        self._findings.note_budgets(witness)
        self._dismiss(witness)
        self._findings.judge_outcomes(self._site)

    def _struck_again_and_again(self, witness: WorkerProcess, until: int, began: float) -> None:
        """Until the number of strikes is reached, or the time is over."""
        while self._findings.struck < until and time.monotonic() - began < 60 * self._plan.minutes:
            names = self._burst()
            recovery_s = self._recovery_s()
            self._findings.recoveries.append((names, recovery_s))
            self._look_at(witness)
            now_s = time.monotonic() - began
            self._say(f"{now_s:6.0f} s  {self._findings.struck:3d}  {recovery_s:4.1f} s after {names}")

    def _burst(self) -> str:
        names = []
        for _ in range(self._chance.randint(1, 3)):
            time.sleep(self._chance.uniform(0.2, 2.0))
            self._load()
            names.append(self._strike())
        return ", ".join(names)

    def _strike(self) -> str:
        victim = self._chance.randrange(len(self._victims))
        faults: dict[str, Callable[[], None]] = {
            "worker killed": lambda: self._kill(victim),
            "worker frozen": lambda: self._freeze(self._victims[victim], self._chance.uniform(1, 12)),
            "broker frozen": lambda: self._freeze(self._broker, self._chance.uniform(1, 9)),
            "broker restarted": self._broker.restart,
            "connections cut": self._cut,
        }
        name = self._chance.choices(list(faults), (6, 4, 2, 1, 2))[0]
        faults[name]()
        self._findings.strikes[name] += 1
        return name

    def _kill(self, number: int) -> None:
        """It is started again at once, and may be struck while it loads its model."""
        self._victims[number].kill()
        assert self._victims[number].exit_code == -9
        self._victims[number].launch()

    def _freeze(self, process: WorkerProcess | BrokerBehindProxy, seconds: float) -> None:
        process.freeze()
        try:
            eventually(lambda: _state(process.pid) == "T", 5)
            time.sleep(seconds)
        finally:
            process.thaw()

    def _cut(self) -> None:
        assert self._broker.proxy.cut() > 0

    def _load(self) -> None:
        """See that enough waits. A broker that was just struck may need a moment to say so."""
        eventually(lambda: self._offsets.behind() is not None, _PATIENCE_S)
        while (self._offsets.behind() or 0) < _BACKLOG / 2:
            self._send(_BACKLOG)

    def _send(self, records: int) -> None:
        self._site.send([(self._site.own(f"{number % IMAGES}.jpg"), ()) for number in range(records)])

    def _recovery_s(self) -> float:
        """Seconds until every partition has moved on from where it stood, or is done."""
        over = time.monotonic()
        before: dict[int, int] = {}

        def moved() -> bool:
            committed, ends = self._offsets.committed(), self._offsets.ends()
            if committed is None or ends is None:
                return False
            for number, offset in committed.items():
                before.setdefault(number, offset)
            return all(committed[number] > before[number] or committed[number] == ends[number] for number in ends)

        eventually(moved, _PATIENCE_S, lambda: "\n".join(process.log_tail() for process in self._victims))
        return time.monotonic() - over

    def _look_at(self, witness: WorkerProcess) -> None:
        """The budgets of all workers, and whether one ended by itself: it is started again."""
        for process in (witness, *self._victims):
            if (code := process.exit_code) is not None:
                self._findings.ended_badly.append(f"by itself with {code}: {process.log_tail()}")
                process.launch()
            self._findings.note_budgets(process)

    def _work_off_alone(self, witness: WorkerProcess, growth: Growth) -> None:
        """One load after another, and the witness's memory whenever one is done."""
        for _ in range(_LOADS):
            self._send(_LOAD)
            self._caught_up(witness)
            done, held = growth.note()
        self._say(f"{done:,.0f} images done, {held / 1e6:.1f} MB held")

    def _caught_up(self, witness: WorkerProcess) -> None:
        eventually(lambda: self._offsets.behind() == 0, _PATIENCE_S, witness.log_tail)

    def _dismiss(self, process: WorkerProcess) -> None:
        """One that was killed a moment ago first has to be able to hear that it may go."""
        process.wait_ready()
        if (code := process.terminate()) != 0:
            self._findings.ended_badly.append(f"after SIGTERM with {code}: {process.log_tail()}")

    def _worker(self, replica: str, **settings: str) -> WorkerProcess:
        return WorkerProcess(
            self._site,
            replica,
            self._folder,
            TAGSTREAM_KAFKA_SERVERS=self._broker.proxied,
            TAGSTREAM_REDIS_URL="",
            TAGSTREAM_KAFKA_SESSION_TIMEOUT_S="6",
            transaction_outcomes="20",
            **settings,
        )


def _state(pid: int | None) -> str:
    """As the kernel tells it: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def main(plan: Plan, report: Path) -> int:
    with Scratch() as scratch:
        broker = BrokerBehindProxy(scratch.path / "kafka")
        with (
            broker,
            SeaweedFS(scratch.path / "s3", scratch.will_litter) as s3,
            Valkey(scratch.path / "valkey") as valkey,
        ):
            site = Site(Stack(broker, s3, valkey), "soak", partitions=PARTITIONS)
            findings = Soak(site, broker, scratch.path, plan, _say).run()
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(findings.report(plan.seed))
    _say(findings.summary())
    for words in findings.broken_promises():
        _say(f"NOT KEPT: {words}")
    return 1 if findings.broken_promises() else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _number(name: str, default: float) -> float:
    return float(os.environ.get(name) or default)


if __name__ == "__main__":
    _strikes = int(_number("SOAK_STRIKES", 100))
    _plan = Plan(
        strikes=_strikes,
        minutes=_number("SOAK_MINUTES", 60),
        seed=int(_number("SOAK_SEED", 1)),
        memory=_strikes >= _JUDGED_FROM,
    )
    sys.exit(main(_plan, Path("build/soak-report.md")))
