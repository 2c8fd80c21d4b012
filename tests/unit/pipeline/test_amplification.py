"""What one record can become: every outcome inherits from it, so what is inherited is bounded."""

from __future__ import annotations

import hashlib
import time

from schemas.image_event import MAX_RECORDS
from tests.support.harness import DEAD, IN, OUT, SKIPPED, Harness
from workers.types import Headers, Message


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
