"""Judges outcomes that `tagstream retag` made from earlier ones, or repeated.

The earlier record stands before its outcome, in the same partition, under the same key, and has one outcome at most.
"""

from __future__ import annotations

from collections.abc import Mapping

from workers.audit.claims import Claim
from workers.audit.report import AuditFinding, AuditReport, Fault
from workers.audit.seen import Seen
from workers.types import Partition, ReadRecord

_FIRST = -2
"""The number of the output topic's partition 0 among seen ones; partition 1's is less by one."""


class Remade:
    """Takes outcomes that name the output topic; then the records that these name."""

    def __init__(self, seen: Seen, report: AuditReport, *, compacted: bool) -> None:
        self._seen = seen
        self._report = report
        self._compacted = compacted

    def outcome(self, claim: Claim, read: ReadRecord) -> None:
        """Take one of these outcomes."""
        self._report.remade += 1
        place = Partition(claim.topic, claim.partition)
        if read.partition != claim.partition or claim.offset >= read.offset:
            self._note("without-record", place, claim.offset, "named by an outcome that does not stand behind it", read)
        elif self._seen.add(_FIRST - claim.partition, claim.offset, "whole", 1):
            self._note("doubled", place, claim.offset, "event 0 came again", read)
        else:
            self._seen.note_origin(claim.partition, claim.offset, read.key)

    def spans(self, topic: str) -> dict[Partition, tuple[int, int]]:
        """The offsets of the named records. Called after all outcomes."""
        return {Partition(topic, number): span for number, span in self._seen.origin_spans().items()}

    def record(self, read: ReadRecord) -> None:
        """Take a record within these."""
        same = self._seen.take_origin(read.partition, read.offset, read.key)
        if same is False:
            place = Partition(read.topic, read.partition)
            self._note("without-record", place, read.offset, "answered by an outcome of another subject")

    def settle(self, begins: Mapping[Partition, int], topic: str) -> None:
        """Judge what was named and is not there."""
        for number, offset in self._seen.origins_left():
            place = Partition(topic, number)
            if self._compacted:
                self._report.unverifiable["superseded"] += 1
            elif offset < begins.get(place, 0):
                self._report.unverifiable["expired"] += 1
            else:
                self._note("without-record", place, offset, "answered, and the topic has no such record")

    def _note(self, fault: Fault, place: Partition, offset: int, detail: str, output: ReadRecord | None = None) -> None:
        where = None if output is None else f"{output.topic}:{output.partition}:{output.offset}"
        self._report.add(AuditFinding(fault, f"{place}:{offset}", detail, where))
