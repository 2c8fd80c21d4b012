"""A soak's findings, the broken promises, and the report."""

import statistics
from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.account import RECOVERS_WITHIN_S
from tests.chaos.markers import LostMarker, lost_markers
from tests.support.processes import Growth
from tests.support.worker_process import Site, WorkerProcess
from workers.audit.report import Fault

MB_PER_10_000 = 1.0


@dataclass
class Findings:
    """Filled in during the soak. `recoveries` has (strikes of the burst, seconds)."""

    strikes: Counter[str] = field(default_factory=Counter)
    recoveries: list[tuple[str, float]] = field(default_factory=list)
    ended_badly: list[str] = field(default_factory=list)
    budgets: dict[str, float] = field(default_factory=dict)
    """Of each budget the largest part of it that any worker ever had reserved."""
    records: int = 0
    lost: int = 0
    twice: int = 0
    lost_markers: list[LostMarker] = field(default_factory=list)
    """The broker's fault, which may repeat outcomes; see `markers`."""
    dead_lettered: int = 0
    in_order: bool = True
    audited: Counter[Fault] = field(default_factory=Counter)
    """What `tagstream audit` says is wrong, as a second opinion."""
    mb_per_10_000: float | None = None
    """How fast the memory of the worker grows that was never struck."""
    at_rest: list[tuple[float, int]] = field(default_factory=list)
    """That worker's memory: (finished images, bytes)."""

    @property
    def struck(self) -> int:
        return self.strikes.total()

    def note_budgets(self, process: WorkerProcess) -> None:
        for budget in ("encoded", "decoded"):
            limit = process.metric("tagstream_budget_limit_bytes", budget=budget)
            if limit:
                part = process.metric("tagstream_budget_peak_bytes", budget=budget) / limit
                self.budgets[budget] = max(part, self.budgets.get(budget, 0.0))

    def judge_memory(self, growth: Growth) -> None:
        self.mb_per_10_000 = growth.mb_per_10_000()
        self.at_rest = growth.samples

    def judge_outcomes(self, site: Site) -> None:
        expected, found = site.inputs(), site.outcomes()
        self.records = len(expected)
        self.lost, self.twice = len(set(expected) - set(found)), len(found) - len(set(found))
        self.lost_markers = lost_markers(site.stack.kafka.folder, site.enriched)
        self.dead_lettered = len(site.letters())
        try:
            site.assert_in_order()
        except AssertionError:
            self.in_order = False
        self.audited = site.audit().counts

    def broken_promises(self) -> list[str]:
        slowest = max(self.recoveries, key=lambda recovery: recovery[1], default=("", 0.0))
        unkept = {
            f"{self.lost} records have no outcome": self.lost,
            f"{self.twice} outcomes came twice": self.twice > sum(lost.records for lost in self.lost_markers),
            f"{self.dead_lettered} healthy images were dead-lettered": self.dead_lettered,
            "outcomes of a partition came out of order": not self.in_order,
            f"the audit found {dict(self.audited)}": bool(self.audited) and not self.lost_markers,
            f"{slowest[1]:.0f} s to recover from {slowest[0]}": slowest[1] > RECOVERS_WITHIN_S,
            f"a budget was overdrawn: {self.budgets}": any(part > 1 for part in self.budgets.values()),
            f"memory grows by {self._slope}": (self.mb_per_10_000 or 0.0) >= MB_PER_10_000,
        }
        return [words for words, is_so in unkept.items() if is_so] + [f"a worker ended {x}" for x in self.ended_badly]

    @property
    def _slope(self) -> str:
        return "not judged" if self.mb_per_10_000 is None else f"{self.mb_per_10_000:+.2f} MB per 10,000 images"

    def summary(self) -> str:
        return (
            f"{self.records} records, {self.struck} strikes: {self.lost} lost, {self.twice} twice, "
            f"{self.dead_lettered} dead-lettered, {'in' if self.in_order else 'OUT OF'} order."
        )

    def report(self, seed: int) -> str:
        seconds = [recovery for _, recovery in self.recoveries]
        budgets = ", ".join(f"{name} {100 * part:.1f} %" for name, part in self.budgets.items())
        lines = [
            f"# Soak\n\n{self.summary()} Seed {seed}.\n",
            *(f"**Not kept:** {words}\n" for words in self.broken_promises()),
            "| strike | times |\n|---|---|",
            *(f"| {name} | {count} |" for name, count in self.strikes.most_common()),
            "",
            *(f"The broker lost a transaction marker: {lost}.\n" for lost in self.lost_markers),
            f"{len(seconds)} bursts of one to three strikes. Until every partition moved again:",
            f"median {statistics.median(seconds):.1f} s, at most {max(seconds):.1f} s.\n",
            f"Memory of the worker that was never struck: {self._slope}. After each of its loads it held:\n",
            "| images | held at rest |\n|---|---|",
            *(f"| {done:,.0f} | {held / 1e6:.1f} MB |" for done, held in self.at_rest),
            "",
            f"Most that any worker ever reserved of its budgets: {budgets}.",
        ]
        return "\n".join(lines) + "\n"
