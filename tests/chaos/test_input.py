"""Records that should never be sent: each gets its outcome, and those beside it are none the worse."""

from __future__ import annotations

import json
from urllib.parse import quote_plus

import pytest

from tests.chaos.account import Account
from tests.chaos.line import Given, SharedLine
from tests.support.worker_process import photo

pytestmark = pytest.mark.timeout(240)

AWKWARD = ("a b.jpg", "a+b.jpg", "a%20b.jpg", "ü/ñ/写真.jpg", "deep/er/est.jpg", "100%.jpg", "q?x=1&y#z.jpg", "'\".jpg")


def notification(bucket: str, *keys: str) -> bytes:
    records = [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "eventName": "s3:ObjectCreated:Put",
            "eventTime": "2026-01-02T03:04:05.000Z",
            "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key, safe="/")}},
        }
        for key in keys
    ]
    return json.dumps({"Records": records}).encode()


@pytest.fixture(scope="module")
def healthy(line: SharedLine) -> Given:
    line.site.upload("healthy.jpg", photo(1))
    return line.site.own("healthy.jpg"), ()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(b"\x00\x01 not json", "undecodable", id="not JSON"),
        pytest.param(b'{"schema": "image-event/1", "id": 7}', "schema", id="wrong schema"),
        pytest.param(None, "undecodable", id="null value"),
        pytest.param(b"[1, 2", "undecodable", id="cut off"),
    ],
)
def test_a_message_that_is(
    line: SharedLine, healthy: Given, account: Account, value: bytes | None, reason: str
) -> None:
    """Guard: `parse_message` answers a message that can't be read with a BadEvent; an exception would end us."""
    records = line.send([healthy, (value, ()), healthy], b"one-partition")
    account.landed()
    found = line.settle(account, records, letters=1)
    assert found.keys == ["healthy.jpg"] * 2
    assert found.reasons == [reason]


def test_a_test_event(line: SharedLine, healthy: Given, account: Account) -> None:
    """Guard: S3's test events are known for what they are; without it this is a dead letter."""
    records = line.send([(b'{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"x"}', ()), healthy], b"p")
    account.landed()
    assert [skip.reason for skip in line.settle(account, records).skips] == ["test-event"]


@pytest.mark.chaos
def test_a_bucket_that_is_not_allowed(line: SharedLine, healthy: Given, account: Account) -> None:
    """Guard: the allow-list of buckets, checked before any GET."""
    records = line.send([(notification("another-teams", "x.jpg"), ()), healthy], b"p")
    account.landed()
    assert line.settle(account, records, letters=1).reasons == ["bucket-not-allowed"]
    assert line.store.served["x.jpg"] == 0


def test_many_records_in_one_message_some_bad(line: SharedLine, healthy: Given, account: Account) -> None:
    """Guard: a ledger entry is done only when every index is; committing at the first would lose the others."""
    message = json.loads(notification(line.site.name, "healthy.jpg", "healthy.jpg", "healthy.jpg"))
    message["Records"][1] = {"eventSource": "aws:s3", "eventName": 5}
    records = line.send([(json.dumps(message).encode(), ())])
    account.landed()
    [(partition, offset, _)] = records
    found = line.settle(account, records, letters=1, expected=[(partition, offset, index) for index in range(3)])
    assert found.keys == ["healthy.jpg"] * 2


def test_a_message_of_a_thousand_records(line: SharedLine, healthy: Given, account: Account) -> None:
    """Guard: one record may exceed a transaction's bound alone; without that its outcomes would never be published."""
    records = line.send([(notification(line.site.name, *["healthy.jpg"] * 1_000), ())])
    account.landed()
    [(partition, offset, _)] = records
    line.settle(account, records, expected=[(partition, offset, index) for index in range(1_000)])


@pytest.mark.chaos
def test_a_thousand_events_for_one_new_image(line: SharedLine, account: Account) -> None:
    """Guards: equal images in flight are one flight, and what it brought is remembered. Without the first a whole
    batch of them is computed, without the second each that comes later."""
    line.site.upload("viral.jpg", photo(10_000))
    worker = line.worker
    before = worker.metric("tagstream_batch_images_sum")
    shared = worker.metric("tagstream_coalesced_total")
    records = line.send([(line.site.own("viral.jpg", id=f"{number}"), ()) for number in range(1_000)])
    account.landed()
    found = line.settle(account, records)
    assert found.keys == ["viral.jpg"] * 1_000
    assert worker.metric("tagstream_batch_images_sum") - before == 1
    assert worker.metric("tagstream_coalesced_total") > shared
    assert sum(image.cache.tags == "hit" for image in found.images) > 500


@pytest.mark.chaos
def test_awkward_keys(line: SharedLine, account: Account) -> None:
    """Guard: keys of notifications are form-decoded once, those of our own dialect never."""
    for number, key in enumerate(AWKWARD):
        line.site.upload(key, photo(50 + number))
    given: list[Given] = [(notification(line.site.name, key), ()) for key in AWKWARD]
    given += [(line.site.own(key), ()) for key in AWKWARD]
    records = line.send(given)
    account.landed()
    assert line.settle(account, records).keys == sorted(AWKWARD * 2)


@pytest.mark.chaos
def test_duplicate_and_stale_events(line: SharedLine, account: Account) -> None:
    """Guard: the sequencer remembered per object; without it the older event counts as superseded, not as stale."""
    first, second = line.site.upload("seq.jpg", photo(98)), line.site.upload("seq.jpg", photo(99))
    newer = line.site.own("seq.jpg", etag=second, sequencer="0B")
    older = line.site.own("seq.jpg", etag=first, sequencer="0A")
    records = line.send([(newer, ())], b"p")
    line.committed()
    records += line.send([(newer, ()), (older, ())], b"p")
    account.landed()
    found = line.settle(account, records)
    assert found.keys == ["seq.jpg"] * 2
    assert [skip.reason for skip in found.skips] == ["stale"]
