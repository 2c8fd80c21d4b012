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
