"""Judges an input's records by the outcomes seen before; knows no client."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeAlias

from schemas.enriched_image import version_key
from schemas.image_event import ImageEvent, parse_message
from workers.audit.claims import Claim, claim_of, count_events
from workers.audit.report import AuditReport, Excuse, Fault
from workers.audit.seen import Seen
from workers.types import Partition, ReadRecord

CLOCKS_MS: Final = 3_600_000
"""How far the clocks of producers, workers and brokers may be apart."""
RANGES_MAX: Final = 100_000
"""Dead letters of whole batches that are remembered, some 10 MB."""
_SHOWN_EVENTS: Final = 5
_ELSEWHERE: Final = -1
"""The number of all partitions that are not audited."""

OFFSETS: Final = 2**63
"""No offset is larger."""

Order: TypeAlias = tuple[int, float]
Reached: TypeAlias = Mapping[Partition, tuple[int, int]]
"""The group's committed offset and the end of the log, of every input partition."""


@dataclass(frozen=True, slots=True)
class Topics:
    """What is known of the topics.

    Args:
        output_compacted, others_compacted: the output topic, or that of dead letters or of skips, may have lost
            records to newer ones of the same key.
        inputs_compacted: inputs that may have.
        cut: partitions of these topics whose oldest records are gone, or are not read.
        from_latest: the group began at the end of what was there.
        forgets_before_ms: what was written before may be gone without a trace, by a tombstone and compaction.
        exactly_once: outcomes can be read no earlier than their offset is committed.
    """

    output: str
    skips: bool = True
    output_compacted: bool = False
    others_compacted: bool = False
    inputs_compacted: Set[str] = frozenset()
    cut: Set[Partition] = frozenset()
    from_latest: bool = False
    forgets_before_ms: float = -math.inf
    exactly_once: bool = True


class _Ranges:
    """Disjoint ranges of offsets, each answered by one dead letter."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self.incomplete = False
        """One could not be added."""

    def add(self, first: int, last: int) -> None:
        """One that meets no other."""
        at = bisect_right(self._firsts, last)
        self._firsts.insert(at, first)
        self._lasts.insert(at, last)

    def meets(self, first: int, last: int) -> bool:
        at = bisect_right(self._firsts, last)
        return bool(at) and self._lasts[at - 1] >= first


class _Input:
    """One partition of an input topic, and what was seen of it.

    Args:
        end: behind the last record that is judged.
        limit: behind the last offset that was asked about. Outcomes between them are newer than the audit, or false.
    """

    def __init__(self, partition: Partition, number: int, first: int, end: int, limit: int) -> None:
        self.partition = partition
        self.number = number
        self.first = first
        self.end = end
        self.limit = limit
        self.next = first
        self.ranges = _Ranges()
        self.first_outcome = math.inf
        self.orders: dict[Partition, Order] = {}
        self.first_in: dict[Partition, int] = {}
        """For each output partition that is cut, the lowest offset that it has an outcome of."""


class Judge:
    """Judges ranges of offsets. First `outcome` for each record of each output partition, in order; then `reached`;
    then `record` for each of the input, in order; then `finish`.

    Memory: `seen` has its own bounds; beside them stand the dead letters of whole batches (100,000), and
    an entry for each pair of an input and an output partition.

    Args:
        ranges: first offset and the one behind the last, of each input partition; a range may be empty.
        limits: behind the last offset that was asked about, where that is beyond the range.
        whole: input topics that were asked about with all their partitions.
    """

    def __init__(
        self,
        ranges: Mapping[Partition, tuple[int, int]],
        topics: Topics,
        seen: Seen,
        limits: Mapping[Partition, int] | None = None,
        whole: Set[str] = frozenset(),
    ) -> None:
        self.report = AuditReport(ranges={place: (first, end) for place, (first, end) in ranges.items() if first < end})
        self.remade = Remade(seen, self.report, compacted=topics.output_compacted)
        self._topics = topics
        self._seen = seen
        self._whole = whole
        self._inputs = {
            place: _Input(place, number, *span, (limits or {}).get(place, span[1]))
            for number, (place, span) in enumerate(sorted(ranges.items()))
        }
        self._ranges = 0
        self._oldest: dict[Partition, int] = {}
        """Of each partition that is cut, when its first record was written that is read."""

    # ---- outcomes ---------------------------------------------------------------------------------------------

    def outcome(self, read: ReadRecord) -> None:
        """Take a record of an output topic."""
        partition = Partition(read.topic, read.partition)
        cut = partition in self._topics.cut
        if cut:
            self._oldest.setdefault(partition, read.timestamp_ms)
        claim = None if read.unreadable else claim_of(read.value, read.headers)
        if claim is None:
            self._no_outcome(read)
            return
        source = self._source(Partition(claim.topic, claim.partition))
        if self._topics.output_compacted and read.topic == self._topics.output and read.key is not None:
            self._seen.note_key(read.key, _ELSEWHERE if source is None else source.number, claim.offset)
        if source is None and claim.topic == self._topics.output == read.topic and claim.kind in ("whole", "partial"):
            self.remade.outcome(claim, read)
            return
        if cut and source is not None:
            source.first_in.setdefault(partition, claim.offset)
        if source is not None and claim.offset < source.limit:
            last = min(claim.last, source.limit - 1)
            if last >= source.end:  # kept until it is known how far the input goes
                self._seen.add(source.number, last, claim.kind, claim.events)
        if source is None or claim.last < source.first or claim.offset >= source.end:
            self.report.other += 1
            return
        self.report.outcomes += 1
        source.first_outcome = min(source.first_outcome, claim.offset)
        if self._comes_again(source, claim):
            self._note("doubled", source, claim.offset, f"{_events(claim.events)} came again", read)
        else:
            self._judge_order(source, claim, partition, read)

    def _no_outcome(self, read: ReadRecord) -> None:
        if read.topic != self._topics.output or read.unreadable or read.value is not None or read.key is None:
            self.report.strange += 1
            return
        self.report.tombstones += 1
        if self._topics.output_compacted:  # it may be the only record left of its key
            self._seen.note_key(read.key, _ELSEWHERE, 0)

    def _source(self, place: Partition) -> _Input | None:
        """The input of this partition; made if its whole topic is judged."""
        if place not in self._inputs and place.topic in self._whole and len(self._inputs) < RANGES_MAX:
            self._inputs[place] = _Input(place, len(self._inputs), 0, 0, OFFSETS)
        return self._inputs.get(place)

    def _comes_again(self, source: _Input, claim: Claim) -> bool:
        if claim.last == claim.offset:
            return self._seen.add(source.number, claim.offset, claim.kind, claim.events)
        ranges, first, last = source.ranges, max(claim.offset, source.first), min(claim.last, source.end - 1)
        if ranges.meets(first, last):
            return True
        if self._ranges < RANGES_MAX:
            self._ranges += 1
            ranges.add(first, last)
        else:
            ranges.incomplete = True
        return False

    def _judge_order(self, source: _Input, claim: Claim, partition: Partition, read: ReadRecord) -> None:
        """A record's dead letter leaves behind all its other outcomes."""
        dead = claim.kind in ("failed", "record")
        order = claim.offset, math.inf if dead else claim.events.bit_length()
        before = source.orders.get(partition)
        if before is None or before <= order:
            source.orders[partition] = order
        else:
            self._note("out-of-order", source, claim.offset, f"came after that of offset {before[0]}", read)

    # ---- records ----------------------------------------------------------------------------------------------

    def ahead(self, reached: Reached) -> bool:
        """Whether any outcome is beyond the group's committed offsets."""
        return any(
            self._seen.between(source.number, max(source.end, reached.get(place, (0, 0))[0]), source.limit, 1)
            for place, source in self._inputs.items()
        )

    def reached(self, reached: Reached) -> None:
        """Take the group's and the input's offsets after all outcomes were read."""
        for place, source in self._inputs.items():
            committed, end = reached.get(place, (0, 0))
            for offset in self._answered(source, max(source.end, committed), source.limit):
                if offset >= end:
                    self._note("without-record", source, offset, f"answered, and the input ends at {end}")
                elif self._topics.exactly_once:
                    self._note("uncommitted", source, offset, f"answered, and {committed} is committed")
                else:
                    self.report.unverifiable["uncommitted"] += 1

    def expired(self, partition: Partition, begins: int) -> None:
        """Note that the partition's offsets before this one are gone."""
        source = self._inputs[partition]
        if begins > source.first:
            source.next = min(begins, source.end)
            self.report.unverifiable["input-expired"] += source.next - source.first

    def record(self, read: ReadRecord) -> None:
        """Take a record of an input topic."""
        source = self._inputs.get(Partition(read.topic, read.partition))
        if source is None or read.offset >= source.end or read.offset + read.offsets <= source.next:
            return
        self._judge_gap(source, read.offset)
        source.next = min(read.offset + read.offsets, source.end)
        self.report.records += 1
        if read.unreadable is not None and read.unreadable.reason != "too-many-headers":
            self._judge_unreadable(source, read)
            return
        events = 1 if read.unreadable is not None else count_events(read.value, read.headers)
        self.report.events += events
        in_range = source.ranges.meets(read.offset, read.offset)
        if events == 1 and not in_range and self._seen.answered(source.number, read.offset):
            return
        answers = self._seen.of(source.number, read.offset)
        if in_range:
            if answers.any:
                self._note("doubled", source, read.offset, "answered beside the dead letter of its whole batch")
            return
        if beyond := answers.beyond(events):
            self._note("without-record", source, read.offset, f"{_events(beyond)} answered, of a message of {events}")
        if missing := answers.missing(events):
            self._judge_missing(source, read, missing & ~answers.partial, missing & answers.partial)

    def finish(self) -> AuditReport:
        """The report, once all records were taken."""
        for source in self._inputs.values():
            self._judge_gap(source, source.end)
        return self.report

    def _judge_gap(self, source: _Input, until: int) -> None:
        """Where the input has no record there must be no outcome: markers, and records of aborted transactions."""
        for offset in self._answered(source, source.next, until):
            if source.partition.topic in self._topics.inputs_compacted:
                self.report.unverifiable["input-compacted"] += 1
            else:
                self._note("without-record", source, offset, "answered, and the input has no such record")
        source.next = max(source.next, until)

    def _answered(self, source: _Input, first: int, until: int) -> Iterator[int]:
        while first < until and (found := self._seen.between(source.number, first, until, 1_000)):
            yield from found
            first = found[-1] + 1

    def _judge_unreadable(self, source: _Input, read: ReadRecord) -> None:
        """A worker may have larger limits, and have read it: then each of its records has outcomes."""
        last = source.next - 1
        if source.ranges.meets(read.offset, last):
            return
        found = self._seen.between(source.number, read.offset, last + 1, 1)
        if not found:
            self._judge_missing(source, read, 1, 0)
        elif not self._seen.of(source.number, found[0]).record:
            self.report.unverifiable["input-unreadable"] += 1

    def _judge_missing(self, source: _Input, read: ReadRecord, lost: int, halves: int) -> None:
        if why := self._excuse(source, read, lost):
            self.report.unverifiable[why] += 1
            return
        told = [f"{_events(lost)} without outcome"] if lost else []
        told += [f"{_events(halves)} partial, without a dead letter"] if halves else []
        self._note("missing", source, read.offset, "; ".join(told))

    def _excuse(self, source: _Input, read: ReadRecord, lost: int) -> Excuse | None:
        """Why a record's outcome may have existed although no topic shows it."""
        topics = self._topics
        if topics.from_latest and read.offset < source.first_outcome:
            return "before-the-group"
        if lost and topics.output_compacted and self._superseded(source, read, lost):
            return "superseded"
        if lost and read.timestamp_ms < topics.forgets_before_ms:
            return "forgotten"
        if topics.others_compacted:
            return "compacted"
        if lost and not topics.skips:
            return "no-skipped-topic"
        if source.ranges.incomplete:
            return "too-many-ranges"
        for partition in topics.cut:
            oldest = self._oldest.get(partition, math.inf)
            if read.offset < source.first_in.get(partition, math.inf) and read.timestamp_ms <= oldest + CLOCKS_MS:
                return "expired"
        return None

    def _superseded(self, source: _Input, read: ReadRecord, lost: int) -> bool:
        """Whether a newer outcome exists for every event without one."""
        events = parse_message(read.value, read.headers, topic=read.topic, partition=read.partition, offset=read.offset)
        return all(
            isinstance(event, ImageEvent) and self._seen.superseded(_key(event), source.number, read.offset)
            for index, event in enumerate(events)
            if lost >> index & 1
        )

    def _note(self, fault: Fault, source: _Input, offset: int, detail: str, output: ReadRecord | None = None) -> None:
        self.report.note(fault, f"{source.partition}:{offset}", detail, output)


def _key(event: ImageEvent) -> bytes:
    """Of the message that an event becomes in the output topic."""
    if event.versioned_removal:
        return version_key(event.bucket, event.key, event.version_id or "")
    return event.subject.encode()


def _events(bits: int) -> str:
    """ "event 3", or the first of several."""
    indexes = [*islice((str(index) for index in range(bits.bit_length()) if bits >> index & 1), _SHOWN_EVENTS)]
    more = f" and {bits.bit_count() - _SHOWN_EVENTS} more" if bits.bit_count() > _SHOWN_EVENTS else ""
    return f"event{'s' if len(indexes) > 1 else ''} {', '.join(indexes)}{more}"


_FIRST = -2
"""The number of the output topic's partition 0 among seen ones; partition 1's is less by one."""


@dataclass(eq=False)
class Remade:
    """Judges outcomes that `tagstream retag` made from earlier ones, or repeated.

    The earlier record stands before its outcome, in the same partition, under the same key, and has one outcome at
    most.
    """

    seen: Seen
    report: AuditReport
    compacted: bool

    def outcome(self, claim: Claim, read: ReadRecord) -> None:
        """Take one of these outcomes."""
        self.report.remade += 1
        named = f"{claim.topic}:{claim.partition}:{claim.offset}"
        if read.partition != claim.partition or claim.offset >= read.offset:
            self.report.note("without-record", named, "named by an outcome that does not stand behind it", read)
        elif self.seen.add(_FIRST - claim.partition, claim.offset, "whole", 1):
            self.report.note("doubled", named, "event 0 came again", read)
        else:
            self.seen.note_origin(claim.partition, claim.offset, read.key)

    def spans(self, topic: str) -> dict[Partition, tuple[int, int]]:
        """The offsets of the named records. Called after all outcomes."""
        return {Partition(topic, number): span for number, span in self.seen.origin_spans().items()}

    def record(self, read: ReadRecord) -> None:
        """Take a record within these."""
        same = self.seen.take_origin(read.partition, read.offset, read.key)
        if same is False:
            self.report.note("without-record", read.place, "answered by an outcome of another subject")

    def settle(self, begins: Mapping[Partition, int], topic: str) -> None:
        """Judge what was named and is not there."""
        for number, offset in self.seen.origins_left():
            place = Partition(topic, number)
            if self.compacted:
                self.report.unverifiable["superseded"] += 1
            elif offset < begins.get(place, 0):
                self.report.unverifiable["expired"] += 1
            else:
                self.report.note("without-record", f"{place}:{offset}", "answered, and the topic has no such record")
