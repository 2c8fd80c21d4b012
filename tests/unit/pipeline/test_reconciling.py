"""The publish thread after something unclear, while partitions begin, and at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from tests.unit.pipeline.rig import BUCKET, GROUP, IN, Rig, eventually, running
from workers.backends.kafka_types import NO_MEMBERSHIP
from workers.backends.memory_broker import Fault
from workers.backends.memory_kafka import MemoryPublisher
from workers.errors import Unpublished
from workers.pipeline.batching import Inbox
from workers.pipeline.line import Line
from workers.pipeline.options import WorkerOptions
from workers.pipeline.publishing import Publishing
from workers.ports import Publisher, RecordSource
from workers.vocabulary import Epoch, Partition, Record, Run


def test_a_partition_whose_epoch_was_ended_by_a_foreign_offset_goes_on_from_there() -> None:
    rig = Rig(partitions=1)
    for key in ("0.png", "1.png", "2.png"):
        rig.put(key, (int(key[0]), 0, 200))
    for key in ("1.png", "2.png"):
        rig.store.delay(BUCKET, key, 0.5)

    def somebody_else_commits() -> None:
        rig.broker.before_commit = None
        with rig.broker.changed:
            rig.broker.commit_offsets(GROUP, NO_MEMBERSHIP, {Partition(IN, 0): 2})

    rig.broker.before_commit = somebody_else_commits
    rig.broker.fail_next(Fault.COMMIT_LOST)
    for key in ("0.png", "1.png", "2.png"):
        rig.send(rig.event(key))
    with rig.running():
        eventually(lambda: "2.png" in rig.enriched(), 10)
    assert set(rig.enriched()) == {"2.png"}


class _Slow:
    """A publisher whose partitions have a pending transaction."""

    max_message_bytes: Mapping[str, int] = {}
    lost: Mapping[Epoch, str] = {}

    def __init__(self) -> None:
        self.asked: list[int] = []

    def committed(self, epoch: Epoch) -> int | None:
        self.asked.append(epoch.partition.number)
        time.sleep(0.01)
        return None


def test_a_partition_whose_offset_is_pending_delays_a_run_by_one_question_at_most() -> None:
    rig, publisher = Rig(), _Slow()
    opening: Inbox[Epoch] = Inbox()
    for number in range(5):
        opening.put(Epoch(Partition(IN, number), "m"))
    line = rig.worker()._line_for(publisher)  # type: ignore[arg-type]
    options = WorkerOptions(output_topic="o", dead_letter_topic="d")
    publishing = Publishing(publisher, line, options, opening, Inbox())  # type: ignore[arg-type]
    publishing.step()
    assert publisher.asked == [0]
    publishing.step()
    assert publisher.asked == [0, 1]
    assert len(opening) == 5


def test_what_the_last_commit_tells_the_cache_is_not_lost_in_the_drain() -> None:
    for _ in range(5):
        rig = Rig()
        rig.put("a.png", (9, 9, 9))
        with rig.running():
            rig.send(rig.notification("a.png", sequencers=["0A"]))
            eventually(lambda rig=rig: bool(rig.enriched()))  # type: ignore[misc]
        assert rig.cache.recall(["2:sequencer:/photos/a.png"]) == [b"0A"]


class _Unsure(_Slow):
    """A publisher that does not know whether its run was published, and never will."""

    def publish(self, run: Run) -> None:
        raise Unpublished("timeout", "no answer")

    def recover(self) -> None:
        return


def test_at_the_end_nobody_waits_for_an_answer_that_does_not_come() -> None:
    publisher, ending = _Unsure(), threading.Event()
    line = Rig().worker()._line_for(publisher)  # type: ignore[arg-type]
    epoch = Epoch(Partition(IN, 0), "m")
    line.ledger.open(epoch, 0)
    entry = line.ledger.admit(Record(epoch.partition, 0, 0, None, b"", (), epoch), 0.0)
    assert entry is not None
    line.ledger.fill(entry, ())
    options = WorkerOptions(output_topic="o", dead_letter_topic="d")
    publishing = Publishing(publisher, line, options, Inbox(), Inbox(), ending.is_set)  # type: ignore[arg-type]
    thread = threading.Thread(target=publishing.step, daemon=True)
    thread.start()
    eventually(lambda: bool(publisher.asked))
    ending.set()
    thread.join(5)
    assert not thread.is_alive()
    assert line.ledger.records == 1


def admitted(line: Line, *epochs: Epoch) -> None:
    """One finished record of each."""
    for epoch in epochs:
        line.ledger.open(epoch, 0)
        entry = line.ledger.admit(Record(epoch.partition, 0, 0, None, b"", (), epoch), 0.0)
        assert entry is not None
        line.ledger.fill(entry, ())


class _LosesOne(_Unsure):
    """A publisher whose failed run has left a transaction on partition 0 that never ends."""

    def committed(self, epoch: Epoch) -> int | None:
        self.asked.append(epoch.partition.number)
        if epoch.partition.number == 0:
            self.lost = {epoch: "transaction marker lost"}
            return None
        return 1


def test_a_partition_whose_transaction_never_ends_is_given_up_and_the_others_are_worked_on() -> None:
    """Guard: the end of its epoch. Without it nothing would be published any more, of any partition."""
    publisher = _LosesOne()
    line = Rig().worker()._line_for(publisher)  # type: ignore[arg-type]
    epochs = [Epoch(Partition(IN, number), "m") for number in range(2)]
    admitted(line, *epochs)
    options = WorkerOptions(output_topic="o", dead_letter_topic="d")
    Publishing(publisher, line, options, Inbox(), Inbox()).step()  # type: ignore[arg-type]
    assert [epoch.current for epoch in epochs] == [False, True]
    assert publisher.asked == [0, 1]
    assert line.ledger.jobs_ahead(epochs[1]) == 0


def test_a_lost_marker_makes_the_worker_unready_and_costs_its_own_partition_only_until_it_is_found() -> None:
    rig = Rig(partitions=2)
    for key in ("0.png", "1.png"):
        rig.put(key, (int(key[0]), 0, 200))
    with rig.broker.changed:
        stale = rig.broker.begin("dead", rig.broker.init_producer("dead"))
        rig.broker.add_offsets(stale, GROUP, NO_MEMBERSHIP, {Partition(IN, 0): 0})
    rig.send(rig.event("0.png"), partition=0)
    rig.send(rig.event("1.png"), partition=1)
    worker = rig.worker()
    make = worker._make_publisher

    def publisher(source: RecordSource) -> Publisher:
        made = make(source)
        assert isinstance(made, MemoryPublisher)
        ask = made.committed

        def committed(epoch: Epoch) -> int | None:
            offset = ask(epoch)
            if epoch.partition.number == 0:
                made.lost = {epoch: "transaction marker lost: on images:0"} if offset is None else {}
            return offset

        made.committed = committed  # type: ignore[method-assign]
        return made

    worker._make_publisher = publisher
    with running(worker):
        eventually(lambda: "1.png" in rig.enriched())
        eventually(lambda: worker.unready() == "transaction marker lost: on images:0")
        assert not worker.ready
        assert worker.progress().ok, "a restart would not mend it"
        assert "0.png" not in rig.enriched()
        with rig.broker.changed:
            rig.broker.abort(stale)
        rig.settled()
        eventually(lambda: worker.ready)
    assert rig.coordinates() == [(0, 0, 0), (1, 0, 0)]


def test_a_drain_without_a_broker_ends_when_its_time_is_up() -> None:
    """Guard: the interrupt. The publish thread would wait for the broker, and the end for the publish thread."""
    rig = Rig()
    rig.put("a.png", (9, 9, 9))
    rig.broker.before_commit = lambda: setattr(rig.broker, "away", True)
    rig.send(rig.event("a.png"))
    with rig.running(drain_s=0.5):
        eventually(lambda: rig.broker.away)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert rig.coordinates() == []
