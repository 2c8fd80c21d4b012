"""Records that expand: a message of many events counts as many before it, and those behind it, are read."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from schemas.image_event import MAX_RECORDS
from tests.support.harness import Harness
from tests.support.manual_pipeline import ManualPipeline
from workers.types import Record


class Expanding(ManualPipeline):
    """Records of removals, published and committed when the test says so."""

    def removals(self, *counts: int, partition: int = 0, key: str = "a.png") -> None:
        """One record for each count, of so many removals."""
        for count in counts:
            one = {"eventName": "ObjectRemoved:Delete", "s3": {"bucket": {"name": "photos"}, "object": {"key": key}}}
            assignment = self.assignments[partition]
            offset, self._next[partition] = self._next[partition], self._next[partition] + 1
            value = json.dumps({"Records": [one] * count}).encode()
            self.pipeline.take(Record(assignment.partition, offset, 0, None, value, (), assignment))

    def commit(self, max_messages: int = 1, max_bytes: int = 1) -> int:
        """One transaction, as the publish thread does it; the messages that it had."""
        ready = self.pipeline.ledger.ready(max_messages, max_bytes)
        assert ready is not None
        self.pipeline.ledger.settle(ready)
        self.pipeline.settle(ready.entries)
        return len(ready.transaction.messages)

    def read(self, partition: int = 0) -> int:
        """Events of the partition that were read so far."""
        return sum(place[0] == partition for place in self.done)


def test_many_events_in_one_record_count_as_many() -> None:
    manual = Expanding(jobs_ahead=10)
    manual.removals(8, 8, 8, 1)
    manual.turn()
    assert manual.read() == 16
    assert manual.commit() == 8
    manual.turn()
    assert manual.read() == 24
    assert [manual.commit() for _ in range(2)] == [8, 8]
    manual.turn()
    assert manual.read() == 25


def test_the_first_record_of_a_partition_is_read_whatever_it_holds_and_whatever_others_do() -> None:
    manual = Expanding(partitions=3, jobs_ahead=1, ledger_bytes=1)
    for partition in range(3):
        manual.removals(MAX_RECORDS, 1, partition=partition)
    manual.turn()
    assert [manual.read(partition) for partition in range(3)] == [MAX_RECORDS] * 3


def test_between_two_large_messages_of_a_partition_the_records_of_others_are_read() -> None:
    manual = ManualPipeline(partitions=2)
    long: dict[str, Any] = {"schema": "image-event/1", "id": "a", "more": "x" * 1_000_000}
    for _ in range(5):
        manual.events("a", partition=0, **long)
    read = []
    for _ in range(5):
        manual.events(*["b"] * 10, partition=1)
        manual.pipeline.parse.work()
        manual.pipeline.finish._finish(manual.pipeline.finish._tasks.take(100))
        manual.complete()
        read.append((sum(place[0] == 0 for place in manual.done), len(manual.pipeline.lookup)))
    assert [small for _, small in read] == [10, 20, 30, 40, 50]
    assert read[0][0] <= 1


@pytest.mark.slow
def test_what_a_thousand_removals_will_weigh_is_counted_before_the_next_record_is_read() -> None:
    manual = Expanding(ledger_bytes=4_000_000)
    manual.removals(*[MAX_RECORDS] * 5, key="%01" * 1024)
    heaviest = 0
    while manual.pipeline.ledger.records:
        manual.pipeline.parse.work()
        heaviest = max(heaviest, manual.pipeline.ledger.bytes)
        while len(manual.pipeline.finish):
            manual.complete(1)
            heaviest = max(heaviest, manual.pipeline.ledger.bytes)
        manual.commit()
    records, one_rendered = 5 * 3_400_000, 17_000_000
    assert heaviest < records + 4_000_000 + one_rendered


def test_records_of_an_ended_assignment_are_not_read_any_more() -> None:
    manual = Expanding(jobs_ahead=1)
    manual.removals(5, 5)
    manual.turn()
    manual.assignments[0].end()
    manual.pipeline.ledger.close_ended()
    manual.turn()
    assert manual.read() == 5
    assert len(manual.pipeline.parse.unread) == 0


def test_a_commit_makes_room_at_once_for_the_next_record_to_be_read() -> None:
    """Guard: without being woken the parse thread looks for room five times a second."""
    manual = Expanding(jobs_ahead=1)
    manual.removals(5, 5)
    manual.turn()
    manual.commit()
    thread = threading.Thread(target=manual.pipeline.parse.step, args=(600.0,), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    manual.turn()
    assert manual.read() == 10


def test_at_the_end_nothing_new_is_read() -> None:
    manual = Expanding(jobs_ahead=1)
    manual.removals(5, 5)
    manual.turn()
    manual.commit()
    for stage in manual.pipeline.stages:
        stage.wind_up()
    assert len(manual.pipeline.lookup) == 0
    assert manual.read() == 5


def test_records_that_expand_all_come_out_once_and_in_order() -> None:
    harness = Harness()
    bounds: dict[str, Any] = {"jobs_ahead": 50, "ledger_bytes": 100_000, "transaction_outcomes": 30}
    for number in range(30):
        harness.send(
            harness.notification(*["a.png"] * (1 + 7 * number), name="ObjectRemoved:Delete"), partition=number % 2
        )
    with harness.running(**bounds):
        harness.settled()
    expected = [(partition, offset, index) for partition, offset in harness.appended for index in range(999)]
    found = harness.coordinates()
    assert len(found) == len(set(found)) == sum(1 + 7 * number for number in range(30))
    assert set(found) <= set(expected)


def test_a_transaction_is_cut_by_the_bytes_of_its_outcomes_between_records_and_never_within_one() -> None:
    manual = Expanding()
    manual.removals(*[3] * 20, 900)
    manual.turn()
    sizes = []
    while ready := manual.pipeline.ledger.ready(10_000, 10_000):
        sizes.append((len(ready.entries), sum(message.size for message in ready.transaction.messages)))
        manual.pipeline.ledger.settle(ready)
    assert sum(entries for entries, _ in sizes) == 21
    assert all(size <= 10_000 for entries, size in sizes if entries > 1)
    assert [entries for entries, size in sizes if size > 10_000] == [1]
