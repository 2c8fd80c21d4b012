"""Reads and judges the topics of an audit."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence

from workers.assembly.clients import output_topics, security, servers
from workers.assembly.progress import Counting, uncounted
from workers.assembly.topic_reading import drain
from workers.audit.judge import CLOCKS_MS, OFFSETS, Judge, Reached, Topics
from workers.audit.report import AuditReport
from workers.audit.seen import Seen
from workers.backends.kafka import Extent, Reach, TopicState, between, describe_topics, extents, group_watch, offsets_at
from workers.backends.kafka.types import Isolation
from workers.errors import Misconfigured
from workers.settings import Settings
from workers.types import Partition, ReadRecord

SETTLED_S = 10.0
"""Longest wait for committed offsets: a transaction's outcomes are readable a moment before them."""
_POLL_S = 0.2
_FEW = 1_000
"""Offsets of a partition that are read to be counted."""


class _Given:
    """Offsets given as an option: of all partitions, of a number, or of one."""

    def __init__(self, option: str, given: Sequence[str]) -> None:
        self._option = option
        self.places: dict[tuple[str, str], int] = {}
        for text in given:
            found = re.fullmatch(r"(?:(?:([A-Za-z0-9._-]+):)?(\d{1,10}):)?(\d{1,19})", text)
            if found is None:
                raise Misconfigured(f"{option} {text}: not OFFSET, PARTITION:OFFSET or TOPIC:PARTITION:OFFSET")
            self.places[found[1] or "", found[2] or ""] = int(found[3])

    def of(self, partition: Partition) -> int | None:
        """The most specific offset for a partition, or None."""
        number = str(partition.number)
        named = ((partition.topic, number), ("", number), ("", ""))
        return next((self.places[place] for place in named if place in self.places), None)

    def require_known(self, partitions: Sequence[Partition]) -> None:
        known = {("", "")} | {(topic, str(number)) for place, number in partitions for topic in (place, "")}
        for topic, number in self.places:
            if (topic, number) not in known:
                raise Misconfigured(f"{self._option}: no input partition {topic}{':' if topic else ''}{number}")


class Auditing:
    """One audit, from the topics' offsets to the report."""

    def __init__(
        self,
        settings: Settings,
        begin: Sequence[str],
        end: Sequence[str],
        since_ms: int | None,
        until_ms: int | None,
        counting: Counting = uncounted,
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._servers, self._security = servers(settings), security(settings)
        self._begin, self._end = _Given("--from", begin), _Given("--to", end)
        self._since, self._until = since_ms, until_ms
        self._counting, self._note = counting, note
        given = [number for option in (self._begin, self._end) for _, number in option.places]
        self._whole = not given or "" in given
        """Whether all partitions are judged; only the named ones if every offset names one."""
        self._limits: dict[Partition, int] = {}
        self._ahead: dict[Partition, tuple[int, int]] = {}
        """Offsets that are asked about, and that the group has not committed."""

    def run(self) -> AuditReport:
        """Read the needed records and judge them.

        Raises:
            Misconfigured: a topic does not exist, or the group has no committed offset.
            Unavailable: a broker does not answer, or a transaction does not end.
        """
        inputs = self._read_reach()
        if all(reach.committed is None for reach in inputs.values()):
            raise Misconfigured(
                f"the group {self._settings.group!r} has no committed offset of "
                f"{', '.join(self._settings.topics)}: there is nothing to audit."
                " Correct TAGSTREAM_GROUP or TAGSTREAM_INPUT_TOPICS"
            )
        # Asked after the committed offsets: what was committed with these stands before these ends.
        outputs = extents(self._servers, output_topics(self._settings), security=self._security)
        ranges = self._ranges(inputs)
        spans = self._spans(outputs)
        report = self._judged(inputs, ranges, outputs, spans)
        if spans != _whole(outputs) and (report.counts["missing"] or report.unverifiable["expired"]):
            # The clocks may be further apart than was thought.
            self._note("reading the output topics again, from their beginning")
            report = self._judged(inputs, ranges, outputs, _whole(outputs))
        report.in_flight = self._in_flight()
        return report

    def _read_reach(self) -> Mapping[Partition, Reach]:
        settings = self._settings
        with group_watch(self._servers, settings.group, settings.topics, security=self._security) as watch:
            return watch.look().partitions

    def _ranges(self, inputs: Mapping[Partition, Reach]) -> dict[Partition, tuple[int, int]]:
        self._begin.require_known(list(inputs))
        self._end.require_known(list(inputs))
        since, until = self._offsets_at(self._since), self._offsets_at(self._until)
        found = {}
        for place, reach in inputs.items():
            if not self._whole and (self._begin.of(place), self._end.of(place)) == (None, None):
                continue
            first = max(self._begin.of(place) or 0, _or(since.get(place, 0), reach.end))
            limit = min(_or(self._end.of(place), OFFSETS), _or(until.get(place), OFFSETS))
            end = min(limit, reach.end)
            judged = min(end, _or(reach.committed, reach.first))
            self._ahead[place] = max(first, judged), max(first, judged, end)
            found[place] = (first, max(first, judged))
            self._limits[place] = max(first, limit)
        return found

    def _in_flight(self) -> int:
        """Count the records that are not judged: of few offsets by reading them, for some are transactions' ends."""
        few = {place: span for place, span in self._ahead.items() if span[1] - span[0] <= _FEW}
        read: list[int] = []
        self._read(few, lambda record: read.append(record.offset), "records in flight", "read_uncommitted")
        return len(read) + sum(end - first for place, (first, end) in self._ahead.items() if place not in few)

    def _offsets_at(self, time_ms: int | None) -> dict[Partition, int | None]:
        if time_ms is None:
            return {}
        return offsets_at(self._servers, self._settings.topics, time_ms, security=self._security)

    def _spans(self, outputs: Mapping[Partition, Extent]) -> dict[Partition, tuple[int, int]]:
        """Output ranges to read: an outcome is no older than its record, clocks aside."""
        if self._since is None:
            return _whole(outputs)
        topics = list(dict.fromkeys(place.topic for place in outputs))
        at = offsets_at(self._servers, topics, self._since - CLOCKS_MS, security=self._security)
        return {
            place: (max(extent.begin, _or(at.get(place), extent.end)), extent.end) for place, extent in outputs.items()
        }

    def _judged(
        self,
        inputs: Mapping[Partition, Reach],
        ranges: Mapping[Partition, tuple[int, int]],
        outputs: Mapping[Partition, Extent],
        spans: Mapping[Partition, tuple[int, int]],
    ) -> AuditReport:
        whole = frozenset(self._settings.topics if self._whole else ())
        with Seen() as seen:
            judge = Judge(ranges, self._topics(outputs, spans), seen, self._limits, whole)
            self._read(spans, judge.outcome, "outcomes", "read_committed")
            judge.reached(self._reached(judge))
            for place in ranges:
                judge.expired(place, inputs[place].first)
            there = {place: (max(first, inputs[place].first), end) for place, (first, end) in ranges.items()}
            self._read(there, judge.record, "records", self._settings.input_isolation)
            topic, begins = self._settings.output_topic, {place: extent.begin for place, extent in outputs.items()}
            named = judge.remade.spans(topic).items()
            there = {place: (max(first, begins[place]), end) for place, (first, end) in named if place in begins}
            self._read(there, judge.remade.record, "remade outcomes", "read_committed")
            judge.remade.settle(begins, topic)
            return judge.finish()

    def _reached(self, judge: Judge) -> Reached:
        """Positions of group and input, taken after the outcomes were read."""
        deadline = time.monotonic() + SETTLED_S
        while True:
            looked = self._read_reach()
            reached = {place: (_or(reach.committed, reach.first), reach.end) for place, reach in looked.items()}
            if not judge.ahead(reached) or time.monotonic() > deadline:
                return reached
            time.sleep(_POLL_S)

    def _topics(self, outputs: Mapping[Partition, Extent], spans: Mapping[Partition, tuple[int, int]]) -> Topics:
        settings = self._settings
        beside = {topic for topic in (settings.dead_letter_topic, settings.skipped_topic) if topic}
        topics = sorted({settings.output_topic, *beside, *settings.topics})
        policies = {topic: ["cleanup.policy", "delete.retention.ms"] for topic in topics}
        states = describe_topics(self._servers, policies, security=self._security)
        # One that we may not see may be anything.
        compacting = {
            topic for topic, state in states.items() if "compact" in state.settings.get("cleanup.policy", "compact")
        }
        return Topics(
            output=settings.output_topic,
            skips=bool(settings.skipped_topic),
            output_compacted=settings.output_topic in compacting,
            others_compacted=bool(beside & compacting),
            inputs_compacted=compacting & set(settings.topics),
            cut=frozenset(place for place in outputs if spans[place][0] > 0),
            from_latest=settings.offset_reset == "latest",
            forgets_before_ms=self._forgets_before_ms(states) if settings.output_topic in compacting else -math.inf,
            exactly_once=settings.delivery == "exactly_once",
        )

    def _forgets_before_ms(self, states: Mapping[str, TopicState]) -> float:
        """The time before which tombstones may have gone, with their keys' outcomes."""
        keeps_ms = states[self._settings.output_topic].settings.get("delete.retention.ms", "0")
        return time.time() * 1000 - float(keeps_ms) if self._settings.tombstones else -math.inf

    def _read(
        self,
        spans: Mapping[Partition, tuple[int, int]],
        take: Callable[[ReadRecord], None],
        what: str,
        isolation: Isolation,
    ) -> None:
        if wanted := {place: span for place, span in spans.items() if span[0] < span[1]}:
            with between(self._servers, wanted, security=self._security, isolation=isolation) as reading:
                drain(reading, f"offsets of {what}", take, counting=self._counting)


def _whole(extents: Mapping[Partition, Extent]) -> dict[Partition, tuple[int, int]]:
    return {place: (extent.begin, extent.end) for place, extent in extents.items()}


def _or(offset: int | None, otherwise: int) -> int:
    return otherwise if offset is None else offset
