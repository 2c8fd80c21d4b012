"""Skips a record that no version can handle."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from schemas.dead_letter import Failure
from workers import __version__
from workers.assembly.clients import publisher, record_source, security, servers
from workers.backends.kafka import KafkaRecordSource, group_watch, require_topics
from workers.errors import Misconfigured, Unavailable
from workers.pipeline.dead_letters import dead_letter
from workers.ports import Publisher
from workers.settings import Settings
from workers.types import Assignment, Message, Record, Transaction, Unreadable

JOIN_S = 30.0
"""How long to wait for the partition to be ours, and again for its committed offset."""

_UNKNOWN_TIME = -1
"""Kafka's time of a record without one."""


def parse_place(text: str) -> tuple[str, int, int]:
    """Topic, partition and offset of "images:3:41977". Raises Misconfigured: it is not such a text."""
    found = re.fullmatch(r"([A-Za-z0-9._-]+):(\d+):(\d+)", text)
    if found is None:
        raise Misconfigured(f"{text!r} is not TOPIC:PARTITION:OFFSET, such as images:3:41977")
    return found[1], int(found[2]), int(found[3])


@dataclass(eq=False)
class Skipping:
    """A short membership of the group that skips one record.

    It ends once the dead letter is published and the next offset committed. Its assignment is never started, so nothing
    is read.

    Args:
        report: called with a sentence before each wait.
    """

    settings: Settings
    topic: str
    partition: int
    offset: int
    report: Callable[[str], None]

    def __post_init__(self) -> None:
        topics = self.settings.topics
        if self.topic not in topics:
            raise Misconfigured(f"{self.topic!r} is not among TAGSTREAM_INPUT_TOPICS={','.join(topics)}")

    def run(self) -> None:
        """Publish the dead letter and commit the next offset in one transaction.

        Raises:
            Misconfigured: the record is not the next one, or does not exist.
            Unavailable: another member keeps the partition, or a dependency does not answer.
            Unpublished: the group changed meanwhile; nothing was done.
        """
        self.require_record()
        settings, name = self.settings, f"{self.settings.group}-skip-{self.topic}-{self.partition}"
        with closing(record_source(settings)) as source, closing(publisher(settings, source, name)) as way_out:
            assignment = self._take_partition(source)
            self._require_next(way_out, assignment)
            limit = way_out.max_message_bytes[settings.dead_letter_topic]
            way_out.publish(Transaction([self._dead_letter(assignment, limit)], {assignment: self.offset + 1}))

    def _take_partition(self, source: KafkaRecordSource) -> Assignment:
        why = f"the group {self.settings.group!r} to give us {self.topic}:{self.partition}; stop its workers"
        for _ in self._tries(why):
            for assignment in source.poll(0.2).started:
                if assignment.partition == (self.topic, self.partition):
                    return assignment
        raise Unavailable(
            "kafka",
            f"{self.topic}:{self.partition} was not assigned to us within {JOIN_S:g} s: another member of the "
            f"group {self.settings.group!r} holds it. Stop the workers first",
        )

    def _require_next(self, way_out: Publisher, assignment: Assignment) -> None:
        committed = None
        for _ in self._tries(
            f"the committed offset of {assignment.partition}; a dead worker's transaction may be pending"
        ):
            committed = way_out.committed(assignment)
            if committed is not None or not assignment.current:
                break
        if committed is None:
            why = way_out.lost.get(
                assignment, f"the committed offset of {assignment.partition} is not known yet; try again"
            )
            raise Unavailable("kafka", why)
        self._require_that(committed)

    def _require_that(self, committed: int) -> None:
        if committed != self.offset:
            raise Misconfigured(
                f"the next record of {self.topic}:{self.partition} is {committed}, not {self.offset}: "
                "nothing was skipped"
            )

    def require_record(self) -> None:
        """Check, before joining, that the record is the next: an offset too high ends every worker.

        Raises:
            Misconfigured: it is not, or it does not exist; or there is no topic of dead letters.
            Unavailable: no broker answers.
        """
        settings = self.settings
        require_topics(servers(settings), [settings.dead_letter_topic], security=security(settings))
        with group_watch(servers(settings), settings.group, [self.topic], security=security(settings)) as watch:
            reaches = {place.number: reach for place, reach in watch.look().partitions.items()}
        if self.partition not in reaches:
            raise Misconfigured(f"{self.topic} has no partition {self.partition}; the last is {max(reaches)}")
        if self.offset >= reaches[self.partition].end:
            raise Misconfigured(f"{self.topic}:{self.partition} has no record at {self.offset} (yet)")
        committed = reaches[self.partition].committed
        if committed is not None:  # else the group begins where TAGSTREAM_OFFSET_RESET says
            self._require_that(committed)

    def _dead_letter(self, assignment: Assignment, limit: int) -> Message:
        detail = "passed by `tagstream dead-letters skip`, which does not read it"
        why = Unreadable("skipped-by-operator", detail)
        unread = Record(assignment.partition, self.offset, _UNKNOWN_TIME, None, None, (), assignment, unreadable=why)
        failure = Failure(index=0, stage="publish", reason=why.reason, detail=detail)
        topic = self.settings.dead_letter_topic
        return dead_letter(unread, [failure], topic=topic, limit=limit, worker=__version__, models={})

    def _tries(self, why: str) -> Iterator[None]:
        """Yield for each try, at most `JOIN_S`, after reporting the reason."""
        self.report(f"waiting at most {JOIN_S:g} s for {why}")
        began = time.monotonic()
        while time.monotonic() - began < JOIN_S:
            yield
