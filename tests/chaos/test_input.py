"""Invalid records: each gets its outcome, and other records are unharmed."""

import json
from urllib.parse import quote_plus

import pytest

from tests.chaos.account import Account
from tests.chaos.shared_worker import Given, SharedWorker
from tests.support.worker_process import photo

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

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
def healthy(shared: SharedWorker) -> Given:
    shared.site.upload("healthy.jpg", photo(1))
    return shared.site.own("healthy.jpg"), ()


def test_many_records_in_one_message_some_bad(shared: SharedWorker, healthy: Given, account: Account) -> None:
    """Guard: a ledger entry is done only when every index is; committing at the first would lose the others."""
    message = json.loads(notification(shared.site.name, "healthy.jpg", "healthy.jpg", "healthy.jpg"))
    message["Records"][1] = {"eventSource": "aws:s3", "eventName": 5}
    records = shared.send([(json.dumps(message).encode(), ())])
    account.landed()
    [(partition, offset, _)] = records
    found = shared.settle(account, records, letters=1, expected=[(partition, offset, index) for index in range(3)])
    assert found.keys == ["healthy.jpg"] * 2


def test_a_message_of_a_thousand_records(shared: SharedWorker, healthy: Given, account: Account) -> None:
    """Guard: one record may exceed a transaction's bound alone; without that its outcomes would never be published."""
    records = shared.send([(notification(shared.site.name, *["healthy.jpg"] * 1_000), ())])
    account.landed()
    [(partition, offset, _)] = records
    found = shared.settle(account, records, expected=[(partition, offset, index) for index in range(1_000)])
    assert found.keys == ["healthy.jpg"] * 1_000


def test_a_thousand_events_for_one_new_image(shared: SharedWorker, account: Account) -> None:
    """Guards: equal images in flight share one computation, and its results are cached."""
    shared.site.upload("viral.jpg", photo(10_000))
    worker = shared.worker
    before = worker.metric("tagstream_batch_images_sum")
    unanswered = worker.metric("tagstream_cache_errors_total")
    coalesced = worker.metric("tagstream_coalesced_total")
    records = shared.send([(shared.site.own("viral.jpg", id=f"{number}"), ()) for number in range(1_000)])
    account.landed()
    found = shared.settle(account, records)
    assert found.keys == ["viral.jpg"] * 1_000
    unanswered = worker.metric("tagstream_cache_errors_total") - unanswered
    assert 1 <= worker.metric("tagstream_batch_images_sum") - before <= 1 + unanswered
    assert worker.metric("tagstream_coalesced_total") > coalesced
    assert sum(image.cache.tags == "hit" for image in found.images) > 500


def test_awkward_keys(shared: SharedWorker, account: Account) -> None:
    """Guard: keys of notifications are form-decoded once, those of our own dialect never."""
    for number, key in enumerate(AWKWARD):
        shared.site.upload(key, photo(50 + number))
    given: list[Given] = [(notification(shared.site.name, key), ()) for key in AWKWARD]
    given += [(shared.site.own(key), ()) for key in AWKWARD]
    records = shared.send(given)
    account.landed()
    assert shared.settle(account, records).keys == sorted(AWKWARD * 2)


def test_duplicate_and_stale_events(shared: SharedWorker, account: Account) -> None:
    """Guard: the sequencer remembered per object; without it the older event counts as superseded, not as stale."""
    first, second = shared.site.upload("seq.jpg", photo(98)), shared.site.upload("seq.jpg", photo(99))
    newer = shared.site.own("seq.jpg", etag=second, sequencer="0B")
    older = shared.site.own("seq.jpg", etag=first, sequencer="0A")
    records = shared.send([(newer, ())], b"p")
    shared.committed()
    records += shared.send([(newer, ()), (older, ())], b"p")
    account.landed()
    found = shared.settle(account, records)
    assert found.keys == ["seq.jpg"] * 2
    assert [skip.reason for skip in found.skips] == ["stale"]
