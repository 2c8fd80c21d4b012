"""What one record can become: every outcome inherits from it, so what is inherited is bounded."""

from __future__ import annotations

import hashlib
import time

from schemas.image_event import MAX_RECORDS
from tests.unit.pipeline.rig import DEAD, IN, OUT, SKIPPED, Rig
from workers.vocabulary import Headers, Message


def size(rig: Rig, topic: str) -> int:
    return sum(Message(r.topic, r.key, r.value, tuple(r.headers)).size for r in rig.broker.visible(topic))


def test_a_thousand_removals_do_not_copy_a_long_key_and_long_trace_headers() -> None:
    rig = Rig()
    key = b"k" * 900_000
    headers: Headers = (("traceparent", b"00-" + b"a" * 900_000), ("tracestate", b"v=" + b"1" * 900_000))
    rig.send(rig.notification(*["a.png"] * MAX_RECORDS, name="ObjectRemoved:Delete"), key=key, headers=headers)
    with rig.running():
        rig.settled()
    records = rig.broker.visible(OUT)
    assert len(records) == MAX_RECORDS
    assert size(rig, OUT) < 1_000_000
    assert {tuple(record.headers) for record in records} == {
        (("tagstream-input-key-sha256", hashlib.sha256(key).hexdigest().encode()),)
    }


def test_a_key_of_a_thousand_and_twenty_four_bytes_is_inherited_whole() -> None:
    rig = Rig()
    rig.send(rig.notification("a.png", name="ObjectRemoved:Delete"), key=b"k" * 1024)
    rig.send(rig.notification("a.png", name="ObjectTagging:Put"), key=None)
    with rig.running():
        rig.settled()
    [retraction], [skip] = rig.broker.visible(OUT), rig.broker.visible(SKIPPED)
    assert tuple(retraction.headers) == (("tagstream-input-key", b"k" * 1024),)
    assert tuple(skip.headers) == ()


def test_many_headers_are_looked_through_once_for_a_record_and_not_for_each_of_its_events() -> None:
    rig = Rig()
    rig.send(rig.notification(*["a.png"] * MAX_RECORDS, name="ObjectTagging:Put"), headers=(("x", b""),) * 100_000)
    started = time.process_time()
    with rig.running():
        rig.settled()
    assert len(rig.skips()) == MAX_RECORDS
    assert time.process_time() - started < 5


def test_a_record_of_very_many_null_headers_becomes_a_dead_letter_without_them() -> None:
    rig = Rig()
    offset = rig.send(b"no event", headers=(("", None),) * 300_000)
    with rig.running():
        rig.settled()
    [record] = rig.broker.visible(DEAD)
    [letter] = rig.dead()
    assert (letter.topic, letter.offset, letter.truncated, letter.nulls) == (IN, offset, True, ())
    assert size(rig, DEAD) < 2_000
    assert not record.value
