"""Objects that a store answers oddly about, and a store that refuses us: each costs what it must and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from minio import Minio

from schemas.enriched_image import EnrichedImage
from tests.fixtures import Stack
from tests.support.lying_store import Lie, LyingStore, errs, refuses_us, says, says_also
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker

pytestmark = pytest.mark.timeout(240)

GOOD = 100
UNREADABLE_S = 4.0
LIES: dict[str, Lie] = {
    "archived": errs(403, "InvalidObjectState", "The operation is not valid for the object's storage class"),
    "sse-c": errs(400, "InvalidRequest", "The object was stored using a form of Server Side Encryption"),
    "odd key": errs(400, "InvalidArgument"),
    "bare 400": says(400),
    "kms": errs(400, "KMS.DisabledException"),
    "signature": errs(403, "SignatureDoesNotMatch"),
    "denied": errs(403, "AccessDenied"),
    "token": errs(400, "ExpiredToken"),
    "key id": errs(403, "InvalidAccessKeyId"),
    "moved": errs(301, "PermanentRedirect"),
    "redirect": says(307),
    "teapot": says(418),
    "slow": errs(503, "SlowDown"),
    "broken": says(500),
    "timed out": errs(400, "RequestTimeout"),
    "not here": says(404),
    "no date": says_also("Last-Modified", ""),
}


@pytest.fixture
def site(stack: Stack, unique: Callable[[str], str]) -> Site:
    return Site(stack, unique("odd"), partitions=1)


def test_odd_objects_cost_themselves_and_a_store_that_refuses_us_costs_time(site: Site, tmp_path: Path) -> None:
    """Guards: answers are judged by their code, an object by comparing it with others. The good ones stand behind all
    the odd ones in the only partition, and others come as long as it is behind."""
    port = int(site.stack.s3.endpoint_url.rpartition(":")[2])
    with (
        LyingStore(lambda: port) as store,
        worker(
            site,
            "w",
            tmp_path,
            TAGSTREAM_S3_ENDPOINT=store.url,
            retry_s="0.5",
            unreadable_s=f"{UNREADABLE_S:g}",
        ) as process,
    ):
        _odd_objects(site, store, process)
        _refused(site, store, process)
        assert process.terminate() == 0, process.said()
    assert site.outcomes() == site.inputs()
    site.assert_in_order()


def _odd_objects(site: Site, store: LyingStore, process: WorkerProcess) -> None:
    store.lies = {f"{name}.jpg": lie for name, lie in LIES.items()}
    for number, name in enumerate(LIES):
        site.upload(f"{name}.jpg", photo(number))
    good = [_as_gzip(site), "back\\slash.jpg"]
    site.upload(good[1], photo(502))
    good += [f"good-{number}.jpg" for number in range(GOOD)]
    for number, key in enumerate(good[2:]):
        site.upload(key, photo(1_000 + number))
    odd = [site.own(f"{name}.jpg") for name in LIES]
    odd += [site.own("nul\0.jpg"), site.own(good[2], etag="é"), site.own("k" * 1_100)]
    site.send([(value, ()) for value in (*odd, *map(site.own, good))])

    def caught_up() -> bool:
        if site.behind() == 0:
            return True
        good.append(f"more-{len(good)}.jpg")
        site.upload(good[-1], photo(3_000 + len(good)))
        site.send([(site.own(good[-1]), ())])
        return False

    eventually(caught_up, UNREADABLE_S + 60.0, process.said)
    images = {output.source.key for output in site.outputs() if isinstance(output, EnrichedImage)}
    assert images == set(good)
    details = [failure.detail for dead_letter in site.letters() for failure in dead_letter.failures]
    assert any("HTTP 403 InvalidObjectState" in detail for detail in details)
    assert any("HTTP 400 InvalidRequest" in detail for detail in details)
    assert process.get("/readyz")[0] == 200


def _as_gzip(site: Site) -> str:
    """A plain JPEG that says it were compressed, as browsers and scripts upload them."""
    s3 = site.stack.s3
    client = Minio(s3.endpoint_url.removeprefix("http://"), s3.access_key, s3.secret_key, secure=False)
    body = photo(501)
    path = site.stack.s3.folder / "as-gzip.jpg"
    path.write_bytes(body)
    client.fput_object(site.name, "as-gzip.jpg", str(path), "image/jpeg", metadata={"Content-Encoding": "gzip"})
    client._http.clear()
    return "as-gzip.jpg"


def _refused(site: Site, store: LyingStore, process: WorkerProcess) -> None:
    site.upload("later.jpg", photo(2_000))
    letters = len(site.letters())
    store.lies = {"*": refuses_us("InvalidAccessKeyId")}
    site.send([(site.own("later.jpg"), ())])
    eventually(lambda: process.get("/readyz")[0] == 503, 60.0, process.said)
    assert f"{store.url}: it does not know the access key: correct TAGSTREAM_S3_ACCESS_KEY" in _unready(process)
    time.sleep(UNREADABLE_S)
    assert len(site.letters()) == letters
    store.lies = {}
    eventually(lambda: site.behind() == 0 and process.get("/readyz")[0] == 200, 60.0, process.said)
    assert len(site.letters()) == letters


def _unready(process: WorkerProcess) -> str:
    try:
        with urlopen(f"{process.url}/readyz", timeout=30) as answer:
            return str(answer.read().decode())
    except HTTPError as error:
        with error:
            return error.read().decode()
