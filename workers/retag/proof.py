"""Proves from the topics what became of each record of a plan: `tagstream audit --plan`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Final, Literal, TypeAlias

from workers.audit.claims import Read
from workers.audit.report import AuditFinding, AuditReport
from workers.audit.seen import Seen
from workers.retag.going import PlanCursor, event_id, fitting, remade
from workers.retag.judgement import Judgement
from workers.retag.judging import Retagger, read_document
from workers.retag.plan_file import PlanFile, Planned
from workers.types import Partition

Proof: TypeAlias = Literal["outcome", "event", "unchanged", "left", "overtaken", "in-flight", "missing"]
"""What stands for a planned record: one outcome that names it, one event that requests its image, or nothing.

`left`: today's settings leave it alone, no worker made it, or the topic does not take the new one; `overtaken`: the
record is gone; `in-flight`: the plan's run has not come to it.
"""
_PLACE = re.compile(r"(\d{1,10}):(\d{1,19})")
_SENT: Final = -1_000_000_000
"""The number of events for the output topic's partition 0 among what was seen; that of partition 1 is less by one."""


@dataclass(eq=False)
class PlanProof:
    """Takes the input topic's events; then the output topic's records between `spans`, in order; then `settle`.

    Args:
        answered: whether an outcome names this record of the output topic.
        committed: by partition, how far the plan's run is.
        limit: the largest message that the output topic takes.
    """

    plan: PlanFile
    judge: Retagger
    seen: Seen
    report: AuditReport
    _: KW_ONLY
    answered: Callable[[int, int], bool]
    committed: Mapping[int, int]
    limit: int
    counts: Counter[Proof] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._topic = self.plan.head.topic
        self._name = event_id(self.plan.digest, 0, 0).removesuffix("0:0")
        self._cursors = {number: PlanCursor(self.plan.of(number)) for number in self.plan.head.ends}

    def event(self, read: Read) -> None:
        """Take a record of the topic to which events were sent."""
        _, named, rest = (read.value or b"").decode(errors="replace").partition(self._name)
        if not named or (found := _PLACE.match(rest)) is None:
            return
        number, offset = map(int, found.groups())
        if self.seen.add(_SENT - number, offset, "whole", 1):
            at = f"{read.topic}:{read.partition}:{read.offset}"
            why = "planned, and its image was requested again"
            self.report.add(AuditFinding("doubled", f"{self._topic}:{number}:{offset}", why, at))

    @property
    def spans(self) -> dict[Partition, tuple[int, int]]:
        """The offsets in which the planned records stand."""
        firsts = {number: cursor.next.offset for number, cursor in self._cursors.items() if cursor.next is not None}
        return {
            Partition(self._topic, number): (first, self.plan.head.ends[number]) for number, first in firsts.items()
        }

    def record(self, read: Read) -> None:
        """Take a record of the output topic."""
        cursor = self._cursors.get(read.partition)
        if cursor is None:
            return
        line = cursor.reach(read.offset, self._gone)
        if line is not None:
            self._count(line, read)

    def settle(self) -> None:
        """Count what was planned and is not there, and report all."""
        for number, cursor in self._cursors.items():
            cursor.reach(self.plan.head.ends[number], self._gone)
        counts: dict[str, int] = {str(proof): count for proof, count in self.counts.items()}
        self.report.plan = {"digest": self.plan.digest, "planned": self.plan.head.lines, **counts}

    def _gone(self, line: Planned) -> None:
        self._count(line, None)

    def _count(self, line: Planned, read: Read | None) -> None:
        proof = self._proof(line, read)
        self.counts[proof] += 1
        if proof == "missing":
            place = f"{self._topic}:{line.partition}:{line.offset}"
            self.report.add(AuditFinding("missing", place, "planned, and nothing became of it"))

    def _proof(self, line: Planned, read: Read | None) -> Proof:
        if self.answered(line.partition, line.offset):
            return "outcome"
        if self.seen.of(_SENT - line.partition, line.offset).any:
            return "event"
        if line.offset >= self.committed.get(line.partition, 0):
            return "in-flight"
        if read is None:
            return "overtaken"
        try:
            outcome = read_document(read.value or b"null")
            # By the corrections that it shows, whatever people have said since the run.
            judged = [self.judge.judge(outcome, read.headers, as_shown=as_shown) for as_shown in (False, True)]
        except ValueError:
            return "left"
        if any(each.kind.fate == "unchanged" for each in judged):
            return "unchanged"
        return "left" if any(self._stays(each, read, line) for each in judged) else "missing"

    def _stays(self, judged: Judgement, read: Read, line: Planned) -> bool:
        """Whether a run leaves the old outcome."""
        if judged.made is not None:
            return fitting(remade(self.judge, judged.made, line, self._topic), self.limit) is None
        return judged.kind.fate == "stays"
