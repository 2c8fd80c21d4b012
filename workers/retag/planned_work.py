"""Turns the planned records into messages: new outcomes, and events that request images.

The input is the enriched topic, in a consumer group of the plan. Ledger, polling and publishing are the worker's.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Protocol, TypeAlias, cast, get_args

import orjson

from schemas.enriched_image import read_output
from schemas.image_event import ImageEvent, parse_message
from schemas.options import Options
from schemas.stored_scores import STORED_HEADERS
from schemas.text import VERSION_MAX, subject
from schemas.version import VERSION_HEADER
from workers.errors import Misconfigured
from workers.pipeline.commit.ledger import Entry, Ledger, Rendered
from workers.pipeline.published import Fields, StoredOutcome, read_document
from workers.pipeline.rendering import fitting
from workers.pipeline.stages.stage import Stage
from workers.ports import Clock
from workers.retag.plan_file import PlanFile, Planned
from workers.retag.remake import NeedsImage, New, Remaker, Stays
from workers.types import Assignment, Coordinates, Message, OutcomeKind, Partition, Record

Fate: TypeAlias = Literal["rescored", "images", "unchanged", "left"]
"""The fate of a planned record: a new outcome, an event that requests the image, or nothing.

`left`: the settings leave it alone, it is no valid outcome, its version is the highest possible, or its new outcome is
too large for the topic.
"""
FATES: Final[tuple[Fate, ...]] = get_args(Fate)
_WAITING = 1_000
"""If this many records wait, no other is admitted."""
_OWN_HEADERS: Final = (VERSION_HEADER, *STORED_HEADERS)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def group_of(digest: str, *, chosen: bool = False) -> str:
    """Consumer group and transactional id of a plan's run; `chosen`: of chosen subjects."""
    return f"tagstream-retag-{digest[:12]}{'-only' if chosen else ''}"


def event_id(digest: str, partition: int, offset: int) -> str:
    """The id of the event that requests a planned record's image."""
    return f"retag:{digest[:12]}:{partition}:{offset}"


def image_event(topic: str, outcome: Fields, options: Options, name: str) -> Message:
    """The event that requests an outcome's image again. Raises ValueError: workers would refuse it."""
    source, version = outcome["source"], outcome["version"]
    document = {
        "schema": "image-event/1",
        "id": name,
        "bucket": source["bucket"],
        "key": source["key"],
        "version_id": source["version_id"],
        "etag": source["etag"],
        "size": outcome["image"]["bytes"],
        "sequencer": source["sequencer"],
        "event_time": (_EPOCH + timedelta(microseconds=version + 1)).isoformat(timespec="microseconds"),
    }
    if outcome.get("options") is not None:
        document["options"] = options.model_dump(mode="json")
    value = orjson.dumps({name: value for name, value in document.items() if value is not None})
    (event,) = parse_message(value, (), topic=topic, partition=0, offset=0)
    if not isinstance(event, ImageEvent) or subject(event.bucket, event.key) != outcome["subject"]:
        raise ValueError("no worker's outcome: an event can't name its source")
    return Message(topic, outcome["subject"].encode(), value, ())


class PlanCursor:
    """The planned records of a partition, in step with its reading."""

    def __init__(self, lines: Iterator[Planned]) -> None:
        self._lines = lines
        self.next = next(lines, None)

    def skip(self, offset: int) -> int:
        """Pass over the planned records before this offset; returns their number."""
        passed = 0
        while self.next is not None and self.next.offset < offset:
            self.next, passed = next(self._lines, None), passed + 1
        return passed

    def reach(self, offset: int) -> Planned | None:
        """The planned record at this offset, or None; passes over those before it."""
        self.skip(offset)
        line = self.next
        if line is None or line.offset > offset:
            return None
        self.next = next(self._lines, None)
        return line


def new_message(new: New, line: Planned, topic: str) -> Message:
    """The new outcome, with the old record's other headers. Raises ValueError: readers would refuse it."""
    version = line.version + 1
    document = new.document(Coordinates(topic, line.partition, line.offset, 0), version)
    read_output(document.value)
    kept = [(name, value) for name, value in new.outcome.headers if name not in _OWN_HEADERS and value is not None]
    headers = (*kept, (VERSION_HEADER, b"%d" % version), *document.stored)
    return Message(topic, document.key, document.value, headers)


class Pacing(Protocol):
    """Limits the rate of events: `ready` says whether one may be sent, `spend` counts it."""

    def ready(self) -> bool: ...
    def spend(self) -> None: ...


@dataclass(eq=False)
class PlannedWork(Stage):
    """The work of a plan, for the worker's polling and publishing (`workers.pipeline.commit.work.Work`).

    It is its only stage, which holds records back while too many wait.

    Args:
        limits: the largest message of each topic.
        events_to: topic of the events that request images.
        settled: called with the number of planned records that were just committed.
    """

    plan: PlanFile
    remaker: Remaker
    limits: Mapping[str, int]
    events_to: str
    pace: Pacing
    clock: Clock
    settled: Callable[[int], object]
    ledger: Ledger = field(default_factory=Ledger)
    counts: Counter[Fate] = field(default_factory=Counter)
    earlier: dict[Partition, int] = field(default_factory=dict)
    """By partition, the planned records that were done or gone before this run."""
    _cursors: dict[Partition, PlanCursor] = field(default_factory=dict)
    _waiting: deque[tuple[Entry, Planned]] = field(default_factory=deque)

    @property
    def stages(self) -> Sequence[Stage]:
        return (self,)

    # ---- poll thread ------------------------------------------------------------------------------------------

    def holds_back(self, assignment: Assignment) -> bool:
        return len(self._waiting) >= _WAITING

    def take(self, record: Record, *repeats: Record) -> bool:
        """Admit the planned records."""
        taken = False
        for each in (record, *repeats):
            cursor = self._cursors[each.partition]
            if cursor.next is not None and each.unreadable and cursor.next.offset < each.next_offset:
                raise Misconfigured(f"{each.partition}:{each.offset} can't be read any more. Make a new plan.")
            line = cursor.reach(each.offset)
            entry = None if line is None else self.ledger.admit(each, self.clock.monotonic())
            if entry is not None and line is not None:
                self._waiting.append((entry, line))
                taken = True
        return taken

    def remake(self) -> None:
        """Remake the admitted records, as far as the pace of events allows."""
        while self._waiting and self.pace.ready():
            entry, line = self._waiting.popleft()
            if not entry.record.assignment.current:
                continue
            fate, message = self._outcome(entry.record, line)
            if fate == "images":
                self.pace.spend()
            kind: OutcomeKind = "enriched" if fate == "rescored" else "skip"
            self.ledger.expect(entry, 1)
            self.ledger.complete(entry, 0, (Rendered(message, kind, fate),))
            self.ledger.fill(entry, () if message is None else (message,))

    def _outcome(self, record: Record, line: Planned) -> tuple[Fate, Message | None]:
        try:
            outcome = read_document(record.value or b"null")
        except ValueError:
            outcome = {}
        if outcome.get("subject") != line.subject or outcome.get("version") not in (None, line.version):
            raise Misconfigured(
                f"{record.partition}:{record.offset} is not the record that was planned: the topic was made anew. "
                "Make a new plan."
            )
        try:
            return self._fate(outcome, record, line)
        except (ValueError, KeyError, TypeError, AttributeError):  # a plan does not check all of an outcome
            return "left", None

    def _fate(self, outcome: Fields, record: Record, line: Planned) -> tuple[Fate, Message | None]:
        if line.version >= VERSION_MAX:  # no version is higher
            return "left", None
        topic = record.partition.topic
        match self.remaker.remake(StoredOutcome(outcome, record.headers), facts=line.reason == "facts"):
            case New() as new:
                message = fitting(new_message(new, line, topic), self.limits[topic])
                return ("left", None) if message is None else ("rescored", message)
            case NeedsImage(options=options):
                name = event_id(self.plan.digest, line.partition, line.offset)
                return "images", image_event(self.events_to, {**outcome, "version": line.version}, options, name)
            case Stays():
                return "left", None
            case _:
                return "unchanged", None

    def open(self, assignment: Assignment, offset: int) -> int:
        """Begin a partition at its first planned record.

        Of chosen subjects it is the first of all: an earlier run may have had others.
        """
        place = assignment.partition
        if self.plan.only is not None:
            offset = next((line.offset for line in self.plan.of(place.number)), self.plan.head.ends[place.number])
        self.ledger.open(assignment, offset)
        self._cursors[place] = cursor = PlanCursor(self.plan.of(place.number))
        done = cursor.skip(offset)
        if place not in self.earlier:
            self.earlier[place] = done
            self.settled(done)
        return offset if cursor.next is None else cursor.next.offset

    def complete(self, positions: Mapping[Partition, int]) -> bool:
        """Whether all planned records are committed or gone. Call it while no polled record waits.

        Args:
            positions: by partition, the offset of the next read.
        """
        held, ends = self.ledger.committed(), self.plan.head.ends
        for number, end in ends.items():
            place = Partition(self.plan.head.topic, number)
            if place not in held or (self._cursors[place].next is not None and positions.get(place, 0) < end):
                return False
        return not self.ledger.records

    # ---- publish thread ---------------------------------------------------------------------------------------

    def settle(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            (outcome,) = entry.outcomes[0]
            assert isinstance(outcome, Rendered)
            self.counts[cast(Fate, outcome.reason)] += 1
        self.settled(len(entries))

    def render_again(self) -> None:
        """Check the messages against new limits. Raises Misconfigured: a message is too large now."""
        self.ledger.refill(self._require_fit)

    def _require_fit(self, entry: Entry) -> None:
        for message in entry.messages or ():
            if message.size > self.limits[message.topic]:
                raise Misconfigured(f"{message.topic} takes smaller messages than before. Run the same command again.")
