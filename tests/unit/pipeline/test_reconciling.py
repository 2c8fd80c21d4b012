"""The publish thread after something unclear, while partitions begin, and at the end."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from tagstream_testing.memory_broker import Fault
from tagstream_testing.memory_kafka import MemoryPublisher
from tests.support.harness import BUCKET, GROUP, IN, Harness
from tests.support.measured import measuring
from tests.support.waiting import ends, eventually
from workers import metrics
from workers.errors import Unpublished
from workers.pipeline.commit.publishing import Publishing
from workers.pipeline.options import WorkerOptions
from workers.pipeline.pipeline import Pipeline
from workers.pipeline.stages.stage import StageQueue
from workers.ports import Publisher
from workers.types import NO_MEMBERSHIP, Assignment, Partition, Record, Transaction


@pytest.mark.slow
def test_a_partition_continues_at_the_foreign_offset_that_ended_its_assignment() -> None:
    harness = Harness(partitions=1)
    for key in ("0.png", "1.png", "2.png"):
        harness.put(key, (int(key[0]), 0, 200))
    for key in ("1.png", "2.png"):
        harness.store.delay(BUCKET, key, 0.5)

    def another_member_commits() -> None:
        harness.broker.before_commit = None
        with harness.broker.changed:
            harness.broker.commit_offsets(GROUP, NO_MEMBERSHIP, {Partition(IN, 0): 2})

    harness.broker.before_commit = another_member_commits
    harness.broker.fail_next(Fault.COMMIT_LOST)
    for key in ("0.png", "1.png", "2.png"):
        harness.send(harness.event(key))
    with harness.running():
        eventually(lambda: "2.png" in harness.enriched(), 10)
    assert set(harness.enriched()) == {"2.png"}


class _Slow:
    max_message_bytes: Mapping[str, int] = {}
    lost: Mapping[Assignment, str] = {}

    def __init__(self) -> None:
        self.asked: list[int] = []

    def committed(self, assignment: Assignment) -> int | None:
        self.asked.append(assignment.partition.number)
        time.sleep(0.01)
        return None


def publishing_by(publisher: _Slow, pipeline: Pipeline, *more: Any, opening: Any = None) -> Publishing:
    options = WorkerOptions(output_topic="o", dead_letter_topic="d")
    return Publishing(publisher, pipeline, options, opening or StageQueue(), StageQueue(), *more)  # type: ignore[arg-type]


def test_a_partition_with_a_pending_offset_delays_a_run_by_one_call_at_most() -> None:
    harness, publisher = Harness(), _Slow()
    opening: StageQueue[Assignment] = StageQueue()
    for number in range(5):
        opening.put(Assignment(Partition(IN, number), "m"))
    publishing = publishing_by(publisher, harness.worker().make_pipeline(publisher), opening=opening)  # type: ignore[arg-type]
    publishing.step()
    assert publisher.asked == [0]
    publishing.step()
    assert publisher.asked == [0, 1]
    assert len(opening) == 5


@pytest.mark.slow
def test_the_drain_keeps_the_cache_entries_of_the_last_commit() -> None:
    for _ in range(5):
        harness = Harness()
        harness.put("a.png", (9, 9, 9))
        with harness.running():
            harness.send(harness.notification("a.png", sequencers=["0A"]))
            eventually(lambda harness=harness: bool(harness.enriched()))  # type: ignore[misc]
        assert harness.cache.lookup(["2:sequencer:/photos/a.png"]) == [b"0A"]


class _Unsure(_Slow):
    """A publisher that does not know whether its transaction was published, and never will."""

    def publish(self, transaction: Transaction) -> None:
        raise Unpublished("timeout", "no answer")

    def recover(self) -> None:
        return


def test_at_the_end_no_thread_waits_for_an_answer_that_does_not_come() -> None:
    publisher, ending = _Unsure(), threading.Event()
    pipeline = Harness().worker().make_pipeline(publisher)  # type: ignore[arg-type]
    assignment = Assignment(Partition(IN, 0), "m")
    admitted(pipeline, assignment)
    thread = threading.Thread(target=publishing_by(publisher, pipeline, ending.is_set).step, daemon=True)
    thread.start()
    eventually(lambda: bool(publisher.asked))
    ending.set()
    assert ends(thread)
    assert pipeline.ledger.records == 1


def admitted(pipeline: Pipeline, *assignments: Assignment) -> None:
    for assignment in assignments:
        pipeline.ledger.open(assignment, 0)
        entry = pipeline.ledger.admit(Record(assignment.partition, 0, 0, None, b"", (), assignment), 0.0)
        assert entry is not None
        pipeline.ledger.fill(entry, ())


class _LosesOne(_Unsure):
    def committed(self, assignment: Assignment) -> int | None:
        self.asked.append(assignment.partition.number)
        if assignment.partition.number == 0:
            self.lost = {assignment: "transaction marker lost"}
            return None
        return 1


def test_a_partition_whose_transaction_never_ends_is_dropped_and_the_others_continue() -> None:
    """Guard: the end of its assignment. Without it nothing would be published any more, of any partition."""
    publisher = _LosesOne()
    pipeline = Harness().worker().make_pipeline(publisher)  # type: ignore[arg-type]
    assignments = [Assignment(Partition(IN, number), "m") for number in range(2)]
    admitted(pipeline, *assignments)
    publishing_by(publisher, pipeline).step()
    assert [assignment.current for assignment in assignments] == [False, True]
    assert publisher.asked == [0, 1]
    assert pipeline.ledger.jobs_ahead(assignments[1]) == 0


def test_a_lost_marker_makes_the_worker_unready_and_costs_its_own_partition_only_until_it_is_found() -> None:
    harness = Harness(partitions=2)
    for key in ("0.png", "1.png"):
        harness.put(key, (int(key[0]), 0, 200))
    with harness.broker.changed:
        stale = harness.broker.begin("dead", harness.broker.init_producer("dead"))
        harness.broker.add_offsets(stale, GROUP, NO_MEMBERSHIP, {Partition(IN, 0): 0})
    harness.send(harness.event("0.png"), partition=0)
    harness.send(harness.event("1.png"), partition=1)

    def losing(made: Publisher) -> Publisher:
        assert isinstance(made, MemoryPublisher)
        ask = made.committed

        def committed(assignment: Assignment) -> int | None:
            offset = ask(assignment)
            if assignment.partition.number == 0:
                made.lost = {assignment: "transaction marker lost: on images:0"} if offset is None else {}
            return offset

        made.committed = committed  # type: ignore[method-assign]
        return made

    harness.wrap_publisher = lambda make: lambda source: losing(make(source))
    with harness.running() as worker:
        eventually(lambda: "1.png" in harness.enriched())
        eventually(lambda: worker.unready() == "transaction marker lost: on images:0")
        assert not worker.ready
        assert worker.progress().ok, "a restart would not cure it"
        assert "0.png" not in harness.enriched()
        with harness.broker.changed:
            harness.broker.abort(stale)
        harness.settled()
        eventually(lambda: worker.ready)
    assert harness.coordinates() == [(0, 0, 0), (1, 0, 0)]


def test_a_drain_without_a_broker_ends_when_its_time_is_up(harness: Harness) -> None:
    """Guard: the interrupt. The publish thread would wait for the broker, and the end for the publish thread."""
    harness.broker.before_commit = lambda: setattr(harness.broker, "away", True)
    harness.give("a.png", (9, 9, 9))
    with harness.running(drain_s=0.1):
        eventually(lambda: harness.broker.away)
    assert harness.coordinates() == []


def test_that_nothing_is_published_yet_is_shown() -> None:
    """Without a zero, a worker with failing transactions alone would have no ratio of failures for an alert."""
    with measuring(metrics.TRANSACTIONS) as measured:
        pipeline = Harness().worker().make_pipeline(_Slow())  # type: ignore[arg-type]
        publishing_by(_Slow(), pipeline)
        assert measured.total(metrics.TRANSACTIONS) == 0
