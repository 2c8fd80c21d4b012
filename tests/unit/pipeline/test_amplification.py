"""One record's outcomes: headers within limits, and many events that count before they are read."""

import hashlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import zstandard

from schemas.correction import MAX_NAMES, correction
from schemas.dead_letter import read_dead_letter_headers, replay
from schemas.image_event import MAX_RECORDS
from tests.support.corrections import said
from tests.support.harness import BUCKET, DEAD, IN, OUT, SKIPPED, ColourTagger, Harness
from tests.support.manual_pipeline import ManualPipeline
from tests.support.raw_kafka import ZSTD, batch
from tests.support.raw_kafka import record as raw
from tests.support.waiting import ends
from workers.backends.kafka.batches.batch import Batch
from workers.backends.kafka.types import record_of
from workers.pipeline.commit.polling import runs
from workers.types import Document, Headers, LabelScores, Message, Record

MIB = 1 << 20


def size(harness: Harness, topic: str) -> int:
    return sum(Message(r.topic, r.key, r.value, tuple(r.headers)).size for r in harness.broker.visible(topic))


def test_a_thousand_removals_do_not_copy_a_long_key_and_long_trace_headers(harness: Harness) -> None:
    key = b"k" * 900_000
    headers: Headers = (("traceparent", b"00-" + b"a" * 900_000), ("tracestate", b"v=" + b"1" * 900_000))
    harness.send(harness.notification(*["a.png"] * MAX_RECORDS, name="ObjectRemoved:Delete"), key=key, headers=headers)
    harness.work()
    records = harness.broker.visible(OUT)
    assert len(records) == MAX_RECORDS
    assert size(harness, OUT) < 1_000_000
    inherited = [header for record in records for header in record.headers if header[0] != "tagstream-version"]
    assert inherited == [("tagstream-input-key-sha256", hashlib.sha256(key).hexdigest().encode())]


def test_many_headers_are_looked_through_once_for_a_record_and_not_for_each_of_its_events(harness: Harness) -> None:
    harness.send(
        harness.notification(*["a.png"] * MAX_RECORDS, name="ObjectTagging:Put"), headers=(("x", b""),) * 100_000
    )
    started = time.process_time()
    harness.work()
    assert len(harness.skips()) == MAX_RECORDS
    assert time.process_time() - started < 5


@pytest.mark.slow
def test_a_record_of_very_many_null_headers_becomes_a_dead_letter_without_them(harness: Harness) -> None:
    offset = harness.send(b"no event", headers=(("", None),) * 300_000)
    harness.work()
    [record] = harness.broker.visible(DEAD)
    [dead_letter] = harness.dead()
    assert (dead_letter.topic, dead_letter.offset, dead_letter.truncated, dead_letter.nulls) == (IN, offset, True, ())
    assert size(harness, DEAD) < 2_000
    assert not record.value


def notified(*keys: str) -> bytes:
    objects = [{"key": key, "size": 100_000} for key in keys]
    about = {"eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-central-1"}
    event = {**about, "eventName": "ObjectCreated:Put", "eventTime": "2026-01-02T03:04:05Z"}
    records = [{**event, "s3": {"bucket": {"name": BUCKET}, "object": each}} for each in objects]
    return json.dumps({"Records": records}).encode()


def sent(manual: ManualPipeline, value: bytes, stored: int = 0) -> list[Message]:
    [assignment] = manual.assignments
    manual.pipeline.take(Record(assignment.partition, 0, 0, None, value, (), assignment, stored=stored))
    manual.turn()
    ready = manual.pipeline.ledger.ready(10_000, 1 << 30)
    assert ready is not None
    return list(ready.transaction.messages)


@pytest.mark.slow
def test_outcomes_of_one_record_are_bounded_and_the_events_beyond_are_named_in_its_dead_letter() -> None:
    names = [f"{number:03}" + "\N{GRINNING FACE}" * 97 for number in range(MAX_NAMES)]
    log = said(*(correction(BUCKET, "a.png", added=some) for some in (names[:100], names[100:])))
    manual = ManualPipeline(corrections=log)
    manual.put("a.png")
    *images, dead = sent(manual, notified(*["a.png"] * MAX_RECORDS), stored=4 * MIB)
    one = images[0].size
    assert one > 70_000
    assert sum(message.size for message in images) <= 16 * MIB < sum(message.size for message in images) + one
    assert manual.pipeline.ledger.bytes < 18 * MIB
    made = [outcome for outcomes in manual.done.values() for outcome in outcomes if isinstance(outcome, Document)]
    assert sum(len(document.value) for document in made) < 16 * MIB + 256 * one, "made before the bound was looked at"
    letter = read_dead_letter_headers(dead.headers)
    assert {failure.reason for failure in letter.failures} == {"too-many-records"}
    answered = [json.loads(message.value or b"")["event"]["index"] for message in images]
    assert sorted([*answered, *letter.indexes]) == list(range(MAX_RECORDS))


LABELS = tuple(f"a fairly long label {number}" for number in range(40))


class WordyTagger(ColourTagger):
    """Gives every image 40 tags, each in four more languages."""

    labels = LABELS
    thresholds = (0.5,) * 40
    profiles: Mapping[str, Sequence[float]] = {}
    translations: Mapping[str, Sequence[str]] = dict.fromkeys(("de", "fr", "ja", "zh"), LABELS)

    def postprocess(self, raw: object) -> LabelScores:
        return LabelScores(np.arange(40, dtype=np.int32), np.full(40, 0.9, np.float32))


@pytest.mark.slow
def test_a_thousand_honest_records_of_one_notification_have_all_their_outcomes_however_well_it_compresses() -> None:
    manual = ManualPipeline(tagger=WordyTagger())
    keys = [f"photos/of/the/year/2026/{number:04}.png" for number in range(MAX_RECORDS)]
    manual.put(*keys)
    messages = sent(manual, notified(*keys), stored=1)
    assert [message.topic for message in messages] == ["out"] * MAX_RECORDS
    assert sum(message.size for message in messages) > 8 * MIB, "they are large for honest ones"


STATE = b"v=" + b"1" * 510
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_key_and_a_tracestate_are_inherited_once_a_record(harness: Harness) -> None:
    headers: Headers = (("traceparent", PARENT), ("tracestate", STATE))
    for _ in range(2):
        harness.send(harness.notification(*["a.png"] * 50, name="ObjectTagging:Put"), key=b"k" * 1024, headers=headers)
    harness.work()
    seen = [dict(record.headers) for record in harness.broker.visible(SKIPPED)]
    assert len(seen) == 100
    assert all(found["traceparent"] == PARENT for found in seen)
    for name in ("tracestate", "tagstream-input-key"):
        firsts = [json.loads(record.value or b"")["event"]["index"] for record in harness.broker.visible(SKIPPED)
                  if name in dict(record.headers)]  # fmt: skip
        assert firsts == [0, 0]


def admit(manual: ManualPipeline, *batches: bytes) -> int:
    """Let whole batches in as the poll thread does, the records of each in one row; their bytes as stored."""
    [assignment] = manual.assignments
    found = (Batch.of(memoryview(data)).records(assignment.partition, 64 * MIB)[0] for data in batches)
    for run in runs([record_of(read, assignment) for records in found for read in records]):
        assert manual.pipeline.take(*run)
    before = 0
    while before != (before := manual.pipeline.ledger.under_way):
        manual.turn()
    return sum(map(len, batches))


def zipped(records: Sequence[bytes], base_offset: int = 0, last_delta: int | None = None) -> bytes:
    compress = zstandard.ZstdCompressor(level=19).compress
    return batch(records, base_offset=base_offset, last_delta=last_delta, attributes=ZSTD, compress=compress)


def published(manual: ManualPipeline) -> tuple[list[Message], int]:
    ready = manual.pipeline.ledger.ready(1_000_000, 1 << 30)
    assert ready is not None
    [offset] = ready.transaction.offsets.values()
    return list(ready.transaction.messages), offset


def answered_offsets(messages: Sequence[Message]) -> list[int]:
    offsets: list[int] = []
    for message in messages:
        if message.topic == "dead":
            letter = read_dead_letter_headers(message.headers)
            offsets += range(letter.offset, letter.last_offset + 1)
        else:
            offsets.append(json.loads(message.value or b"")["event"]["offset"])
    return offsets


@pytest.mark.slow
def test_tombstones_in_a_row_become_few_dead_letters_and_each_record_can_be_restored() -> None:
    manual, count = ManualPipeline(), 60_000
    stored = admit(manual, zipped([raw(None, key=b"%d" % (number % 7), delta=number) for number in range(count)]))
    messages, committed = published(manual)
    assert (answered_offsets(messages), committed) == (list(range(count)), count)
    assert sum(message.size for message in messages) < 10 * stored < 1 * MIB
    keys: list[bytes | None] = []
    for message in messages:
        assert len(dict(message.headers).get("tagstream-keys") or b"") <= 64_000
        keys += [key for key, value, _ in replay(message.key, message.value, message.headers) if value is None]
    assert keys == [b"%d" % (number % 7) for number in range(count)]
    assert len(messages) == -(-count * 7 // 64_000)


def test_only_adjacent_records_of_one_batch_that_differ_in_the_key_alone_share_a_dead_letter() -> None:
    manual = ManualPipeline()
    values = [None, None, b"x", b"x", b"y", None, b"x"]
    first = [raw(value, key=b"%d" % at, delta=at) for at, value in enumerate(values)]
    first += [raw(b"x", headers=[(b"h", b"1")], delta=7), raw(b"x", headers=[(b"h", b"2")], delta=8)]
    first += [raw(b"x", headers=[(b"h", b"2")], delta=10)]  # one that compaction took out stood before it
    admit(manual, zipped(first, last_delta=10), zipped([raw(b"x", headers=[(b"h", b"2")], delta=0)], base_offset=11))
    messages, _ = published(manual)
    read = [read_dead_letter_headers(message.headers) for message in messages]
    assert [(each.offset, each.last_offset) for each in read] == [
        (0, 1), (2, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 8), (10, 10), (11, 11),
    ]  # fmt: skip


def test_equal_events_between_refused_ones_keep_outcomes_of_their_own(manual: ManualPipeline) -> None:
    manual.put("a.png")
    event = json.dumps({"schema": "image-event/1", "id": "e", "bucket": BUCKET, "key": "a.png"}).encode()
    values = [None] * 5 + [event] * 500 + [None] * 5
    admit(manual, zipped([raw(value, key=b"%d" % at, delta=at) for at, value in enumerate(values)]))
    assert manual.pipeline.ledger.under_way == 0
    messages, committed = published(manual)
    assert (answered_offsets(messages), committed) == (list(range(510)), 510)
    assert [message.topic for message in messages] == ["dead"] + ["out"] * 500 + ["dead"]
    assert [dict(message.headers)["tagstream-input-key"] for message in messages[1:-1]] == [
        b"%d" % at for at in range(5, 505)
    ]


def test_equal_events_wait_for_room_like_others() -> None:
    manual = ManualPipeline(jobs_ahead=3)
    manual.put("a.png")
    value = json.dumps({"schema": "image-event/1", "id": "e", "bucket": BUCKET, "key": "a.png"}).encode()
    admit(manual, zipped([raw(value, delta=at) for at in range(10)]))
    assert answered_offsets(published(manual)[0]) == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("value", [b"no event" + b"x" * 300_000, b'{"schema":"image-event/1"}' + b" " * 300_000])
def test_the_output_of_a_batch_is_bounded_by_its_stored_bytes(manual: ManualPipeline, value: bytes) -> None:
    stored = admit(manual, zipped([raw(value + b"%d" % at, delta=at) for at in range(100)]))
    messages, _ = published(manual)
    assert answered_offsets(messages) == list(range(100))
    assert sum(message.size for message in messages) <= 50 * stored + 100 * (64 << 10) + 100 * (16 << 10)


class Expanding(ManualPipeline):
    def removals(self, *counts: int, partition: int = 0, key: str = "a.png") -> None:
        for count in counts:
            one = {"eventName": "ObjectRemoved:Delete", "s3": {"bucket": {"name": "photos"}, "object": {"key": key}}}
            self.send(json.dumps({"Records": [one] * count}).encode(), partition)

    def commit(self, max_messages: int = 1, max_bytes: int = 1) -> int:
        ready = self.pipeline.ledger.ready(max_messages, max_bytes)
        assert ready is not None
        self.pipeline.ledger.settle(ready)
        self.pipeline.settle(ready.entries)
        return len(ready.transaction.messages)

    def read(self, partition: int = 0) -> int:
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


@pytest.mark.slow
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
        manual.complete()
        read.append((sum(place[0] == 0 for place in manual.done), len(manual.pipeline.lookup)))
    assert [small for _, small in read] == [10, 20, 30, 40, 50]
    assert read[0][0] <= 1


@pytest.mark.slow
def test_the_weight_of_a_thousand_removals_counts_before_the_next_record_is_read() -> None:
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
    assert ends(thread)
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
