"""The poll thread: what finds no room waits with us, counted, and in order."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.harness import Harness
from tests.support.manual_pipeline import NoPublisher
from tests.support.tasks import record_at
from workers.pipeline.commit.polling import HEAD_START_S, Poller
from workers.pipeline.options import WorkerOptions
from workers.pipeline.stages.stage import StageQueue
from workers.types import Assignment, Partition, Polled

HERE = Partition("images", 0)


class _Source:
    def __init__(self) -> None:
        self.next: list[Polled] = []
        self.paused: set[Partition] = set()

    def poll(self, timeout_s: float) -> Polled:
        return self.next.pop(0) if self.next else Polled((), ())

    def start(self, assignment: Assignment, offset: int) -> None: ...

    def pause(self, partitions: Sequence[Partition]) -> None:
        self.paused.update(partitions)

    def resume(self, partitions: Sequence[Partition]) -> None:
        self.paused.difference_update(partitions)


class Polling:
    """A poll thread with one live partition, and others."""

    def __init__(self, *others: Assignment, **bounds: Any) -> None:
        self.source = _Source()
        opening, opened = StageQueue[Assignment](), StageQueue[tuple[Assignment, int]]()
        options = WorkerOptions(output_topic="out", dead_letter_topic="dead", **bounds)
        self.pipeline: Any = Harness().worker(**bounds).make_pipeline(NoPublisher())  # type: ignore[arg-type]
        self.poller = Poller(self.source, self.pipeline, options, opening, opened)  # type: ignore[arg-type]
        self.live = Assignment(HERE, "m")
        self.source.next.append(Polled((), (self.live, *others)))
        self.poller.step()
        begun = opening.take(99)
        assert begun == [self.live, *others]
        opened.put(*((assignment, 0) for assignment in begun))
        self.poller.step()
        self._offsets = dict.fromkeys(begun, 0)

    def come(self, assignment: Assignment, count: int, size: int = 2) -> None:
        """Records of one partition for the next poll."""
        first = self._offsets[assignment]
        self._offsets[assignment] += count
        records = [record_at(assignment, offset, b"x" * size) for offset in range(first, first + count)]
        self.source.next.append(Polled(tuple(records), ()))


def polling(**bounds: Any) -> tuple[_Source, Poller, Any, Assignment]:
    made = Polling(**bounds)
    return made.source, made.poller, made.pipeline, made.live


def test_records_beyond_the_bound_wait_and_come_in_order_as_room_is_made() -> None:
    source, poller, pipeline, assignment = polling(jobs_ahead=2)
    source.next.append(Polled(tuple(record_at(assignment, offset) for offset in range(4)), ()))
    poller.step()
    entries = pipeline.parse.entries.take(9)
    assert [entry.record.offset for entry in entries] == [0, 1]
    assert not poller.idle
    for entry in entries:
        pipeline.ledger.fill(entry, ())
    pipeline.ledger.settle(pipeline.ledger.ready(9, 9))
    poller.step()
    assert [entry.record.offset for entry in pipeline.parse.entries.take(9)] == [2, 3]
    assert poller.idle


def test_a_partition_is_paused_above_its_share_and_resumed_below_half_of_it() -> None:
    source, poller, pipeline, assignment = polling(jobs_ahead=1, polled_bytes=10_000)
    source.next.append(Polled(tuple(record_at(assignment, offset, b"x" * 3_000) for offset in range(5)), ()))
    poller.step()
    assert source.paused == {HERE}
    for waiting in (4, 3, 2, 1):
        [entry] = pipeline.parse.entries.take(9)
        assert source.paused == ({HERE} if waiting * 3_200 > 5_000 else set())
        pipeline.ledger.fill(entry, ())
        pipeline.ledger.settle(pipeline.ledger.ready(9, 9))
        poller.step()
    assert not source.paused


def test_partitions_are_admitted_in_turns_by_bytes() -> None:
    source, poller, pipeline, large = polling()
    small = Assignment(Partition("images", 1), "m")
    pipeline.open(small, 0)
    records = [record_at(large, offset, b"x" * 1_000_000) for offset in range(3)]
    source.next.append(Polled((*records, *(record_at(small, offset, b"x" * 10_000) for offset in range(200))), ()))
    poller.step()
    admitted = [entry.record.partition.number for entry in pipeline.parse.entries.take(1_000)]
    before = [admitted[:place].count(1) for place, number in enumerate(admitted) if number == 0]
    assert before[0] >= 80
    assert before[1] >= 160
    assert len(admitted) == 203


def test_what_waits_of_an_ended_assignment_is_dropped_with_its_bytes() -> None:
    source, poller, _, assignment = polling(jobs_ahead=1, polled_bytes=10_000)
    source.next.append(Polled(tuple(record_at(assignment, offset, b"x" * 9_000) for offset in range(5)), ()))
    poller.step()
    assert source.paused == {HERE}
    assignment.end()
    poller.step()
    assert poller.idle
    assert not source.paused


def test_the_poller_reports_partitions_that_come_and_go(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _, poller, _, assignment = polling()
    assert [str(HERE) in record.getMessage() for record in caplog.records] == [True]
    assignment.end()
    poller.step()
    poller.step()
    assert [str(HERE) in record.getMessage() for record in caplog.records] == [True, True]


def test_no_record_is_admitted_while_a_thousand_wait_to_be_parsed() -> None:
    source, poller, pipeline, assignment = polling(jobs_ahead=5_000)
    source.next.append(Polled(tuple(record_at(assignment, offset) for offset in range(1_005)), ()))
    poller.step()
    assert len(pipeline.parse.entries) == 1_000
    assert not poller.idle
    pipeline.parse.entries.take(1)
    poller.step()
    assert [entry.record.offset for entry in pipeline.parse.entries.take(5_000)] == list(range(1, 1_001))
    poller.step()
    assert poller.idle


def test_no_record_is_admitted_while_a_thousand_tasks_wait_for_the_cache() -> None:
    """Guard: a cache that is slow would else let as many tasks into memory as the partitions may have ahead."""
    source, poller, pipeline, assignment = polling(jobs_ahead=5_000)
    pipeline.lookup.begin([object()] * 1_000)
    source.next.append(Polled((record_at(assignment, 0),), ()))
    poller.step()
    assert not poller.idle
    pipeline.lookup.events.take(1)
    poller.step()
    assert poller.idle


def test_records_that_find_the_worker_idle_go_ahead_of_the_next_poll_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, poller, pipeline, assignment = polling()
    rested: list[float] = []
    monkeypatch.setattr(pipeline.ledger, "wait_until_empty", rested.append)
    poller.step()
    assert not rested
    for offset in range(2):
        source.next.append(Polled((record_at(assignment, offset),), ()))
        poller.step()
        assert rested == [HEAD_START_S]
