"""What one record can become: every outcome inherits from it, so what is inherited is bounded."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence

import numpy as np

from schemas.correction import MAX_NAMES, correction
from schemas.dead_letter import read_dead_letter_headers
from schemas.image_event import MAX_RECORDS
from tagstream_testing.memory import MemoryCorrections
from tests.support.harness import BUCKET, DEAD, IN, OUT, SKIPPED, ColourTagger, Harness
from tests.support.manual_pipeline import ManualPipeline
from workers.types import Document, Headers, LabelScores, Message, Record

MIB = 1 << 20


def size(harness: Harness, topic: str) -> int:
    return sum(Message(r.topic, r.key, r.value, tuple(r.headers)).size for r in harness.broker.visible(topic))


VERSION = ("tagstream-version", b"1767323045000000")
"""Of a notification that a harness makes, which tells when it happened."""


def test_a_thousand_removals_do_not_copy_a_long_key_and_long_trace_headers() -> None:
    harness = Harness()
    key = b"k" * 900_000
    headers: Headers = (("traceparent", b"00-" + b"a" * 900_000), ("tracestate", b"v=" + b"1" * 900_000))
    harness.send(harness.notification(*["a.png"] * MAX_RECORDS, name="ObjectRemoved:Delete"), key=key, headers=headers)
    with harness.running():
        harness.settled()
    records = harness.broker.visible(OUT)
    assert len(records) == MAX_RECORDS
    assert size(harness, OUT) < 1_000_000
    assert {tuple(record.headers) for record in records} == {
        (("tagstream-input-key-sha256", hashlib.sha256(key).hexdigest().encode()), VERSION)
    }


def test_a_key_of_a_thousand_and_twenty_four_bytes_is_inherited_whole() -> None:
    harness = Harness()
    harness.send(harness.notification("a.png", name="ObjectRemoved:Delete"), key=b"k" * 1024)
    harness.send(harness.notification("a.png", name="ObjectTagging:Put"), key=None)
    with harness.running():
        harness.settled()
    [retraction], [skip] = harness.broker.visible(OUT), harness.broker.visible(SKIPPED)
    assert tuple(retraction.headers) == (("tagstream-input-key", b"k" * 1024), VERSION)
    assert tuple(skip.headers) == ()


def test_many_headers_are_looked_through_once_for_a_record_and_not_for_each_of_its_events() -> None:
    harness = Harness()
    harness.send(
        harness.notification(*["a.png"] * MAX_RECORDS, name="ObjectTagging:Put"), headers=(("x", b""),) * 100_000
    )
    started = time.process_time()
    with harness.running():
        harness.settled()
    assert len(harness.skips()) == MAX_RECORDS
    assert time.process_time() - started < 5


def test_a_record_of_very_many_null_headers_becomes_a_dead_letter_without_them() -> None:
    harness = Harness()
    offset = harness.send(b"no event", headers=(("", None),) * 300_000)
    with harness.running():
        harness.settled()
    [record] = harness.broker.visible(DEAD)
    [dead_letter] = harness.dead()
    assert (dead_letter.topic, dead_letter.offset, dead_letter.truncated, dead_letter.nulls) == (IN, offset, True, ())
    assert size(harness, DEAD) < 2_000
    assert not record.value


def notified(*keys: str) -> bytes:
    """A notification as S3 writes it, with all that it says of each object."""
    objects = [{"key": key, "size": 100_000} for key in keys]
    about = {"eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-central-1"}
    event = {**about, "eventName": "ObjectCreated:Put", "eventTime": "2026-01-02T03:04:05Z"}
    records = [{**event, "s3": {"bucket": {"name": BUCKET}, "object": each}} for each in objects]
    return json.dumps({"Records": records}).encode()


def sent(manual: ManualPipeline, value: bytes, stored: int = 0) -> list[Message]:
    """What leaves for one record."""
    [assignment] = manual.assignments
    manual.pipeline.take(Record(assignment.partition, 0, 0, None, value, (), assignment, stored=stored))
    manual.turn()
    ready = manual.pipeline.ledger.ready(10_000, 1 << 30)
    assert ready is not None
    return list(ready.transaction.messages)


def test_outcomes_of_one_record_are_bounded_and_the_events_beyond_are_named_in_its_dead_letter() -> None:
    said = MemoryCorrections()
    names = [f"{number:03}" + "\N{GRINNING FACE}" * 97 for number in range(MAX_NAMES)]
    for some in (names[:100], names[100:]):
        said.produce(correction(BUCKET, "a.png", added=some))
    said.follow(0)
    manual = ManualPipeline(corrections=said)
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


def test_a_thousand_honest_records_of_one_notification_have_all_their_outcomes_however_well_it_compresses() -> None:
    manual = ManualPipeline(tagger=WordyTagger())
    keys = [f"photos/of/the/year/2026/{number:04}.png" for number in range(MAX_RECORDS)]
    manual.put(*keys)
    messages = sent(manual, notified(*keys), stored=1)
    assert [message.topic for message in messages] == ["out"] * MAX_RECORDS
    assert sum(message.size for message in messages) > 8 * MIB, "they are large for honest ones"
