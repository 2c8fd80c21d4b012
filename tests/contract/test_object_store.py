"""The object store's port, on the fake in memory and on a real S3 server."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import pytest
from minio import Minio
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig

from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.memory import MemoryObjectStore
from workers.backends.s3.store import MinioObjectStore
from workers.errors import BucketGone, Gone, LargerThanReserved, Misconfigured, Rejected, Superseded, Unavailable
from workers.types import ObjectVersion, StoredObject

Unique: TypeAlias = Callable[[str], str]


@dataclass
class Bucket:
    name: str
    store: MemoryObjectStore | MinioObjectStore

    def put(self, key: str, body: bytes) -> None:
        self.store.put(self.name, key, body)

    def remove(self, key: str) -> None:
        self.store.remove(self.name, key)

    def get(self, key: str, *, etag: str | None = None, version_id: str | None = None, **more: Any) -> StoredObject:
        bounds = {"max_bytes": 1_000_000, "deadline_s": 30.0, **more}
        return self.store.get(self.name, key, version_id=version_id, etag=etag, **bounds)

    def head(self, key: str) -> ObjectVersion:
        return self.store.head(self.name, key, deadline_s=30.0)


@pytest.fixture
def commands(s3: SeaweedFS, bucket_name: str) -> Iterator[MinioObjectStore]:
    with closing(MinioObjectStore(s3.endpoint_url, s3.access_key, s3.secret_key, connections=2)) as store:
        store.make_bucket(bucket_name)
        yield store


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.servers)])
def bucket(request: pytest.FixtureRequest, bucket_name: str) -> Bucket:
    if request.param == "memory":
        fake = MemoryObjectStore()
        fake.make_bucket(bucket_name)
        return Bucket(bucket_name, fake)
    server: SeaweedFS = request.getfixturevalue("s3")
    client = Minio(urlsplit(server.endpoint_url).netloc, server.access_key, server.secret_key, secure=False)
    commands: MinioObjectStore = request.getfixturevalue("commands")
    client.set_bucket_versioning(bucket_name, VersioningConfig(ENABLED))
    client._http.clear()
    return Bucket(bucket_name, commands)


def test_an_object_is_read_whole_with_its_etag_and_its_date(bucket: Bucket) -> None:
    body = bytes(range(256)) * 2000
    bucket.put("folder/an image.jpg", body)

    stored = bucket.get("folder/an image.jpg")

    assert stored.body == body
    assert stored.etag == hashlib.md5(body, usedforsecurity=False).hexdigest()
    modified = datetime.strptime(stored.last_modified, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - modified) < timedelta(minutes=2)


@pytest.mark.parametrize(
    "key", ["a b", "a+b", "ü/日本/é", "100%", "a%20b", "a&b=c?d#e", "deep/er/still", "~!*'();:@$,[]"]
)
def test_a_key_of_any_characters_is_read(bucket: Bucket, key: str) -> None:
    bucket.put(key, key.encode())
    assert bucket.get(key).body == key.encode()


def test_an_etag_is_taken_with_and_without_quotes(bucket: Bucket) -> None:
    bucket.put("a", b"one")
    etag = bucket.get("a").etag
    assert bucket.get("a", etag=etag).body == b"one"
    assert bucket.get("a", etag=f'"{etag}"').body == b"one"


def test_an_object_that_changed_since_its_event_is_superseded(bucket: Bucket) -> None:
    bucket.put("a", b"one")
    etag = bucket.get("a").etag
    bucket.put("a", b"two")
    with pytest.raises(Superseded):
        bucket.get("a", etag=etag)


def test_a_removed_object_is_gone_even_with_its_etag(bucket: Bucket) -> None:
    bucket.put("a", b"one")
    etag = bucket.get("a").etag
    bucket.remove("a")
    with pytest.raises(Gone):
        bucket.get("a", etag=etag)


def test_an_older_version_is_read_by_its_id_also_once_its_object_is_removed(bucket: Bucket) -> None:
    bucket.put("a", b"one")
    older = bucket.get("a").version_id
    bucket.put("a", b"two")
    assert bucket.get("a", version_id=older).body == b"one"
    assert bucket.get("a").body == b"two"
    bucket.remove("a")
    assert bucket.get("a", version_id=older).body == b"one"


def test_a_version_that_never_was_is_gone(bucket: Bucket) -> None:
    bucket.put("a", b"one")
    with pytest.raises(Gone):
        bucket.get("a", version_id="0123456789abcdef0123456789abcdef")


def test_an_object_of_just_the_allowed_size_is_read_and_one_byte_more_is_not(bucket: Bucket) -> None:
    bucket.put("a", b"x" * 1000)
    assert len(bucket.get("a", max_bytes=1000).body) == 1000
    with pytest.raises(LargerThanReserved) as larger:
        bucket.get("a", max_bytes=999)
    assert larger.value.size == 1000


@pytest.mark.parametrize("first_bytes", [0, 10])
def test_an_object_without_bytes_is_rejected(bucket: Bucket, first_bytes: int) -> None:
    bucket.put("a", b"")
    with pytest.raises(Rejected) as rejected:
        bucket.get("a", first_bytes=first_bytes)
    assert rejected.value.reason == "empty-object"


def test_the_first_bytes_of_an_object_come_with_the_number_of_the_others_and_all_else(bucket: Bucket) -> None:
    body = bytes(range(250)) * 4
    bucket.put("a", body)
    whole = bucket.get("a")
    for first_bytes in (1, 999, 1000, 1001):
        part = bucket.get("a", first_bytes=first_bytes, etag=whole.etag, max_bytes=1001)
        assert (part.body, part.rest) == (body[:first_bytes], max(0, 1000 - first_bytes))
        assert replace(part, body=body, rest=0, date=whole.date) == whole
    bucket.put("a", b"newer")
    assert bucket.get("a", version_id=whole.version_id, first_bytes=1).rest == 999
    with pytest.raises(Superseded):
        bucket.get("a", etag=whole.etag, first_bytes=1)


def test_an_objects_present_version_is_returned_without_its_bytes(bucket: Bucket) -> None:
    bucket.put("folder/ä image.jpg", b"one")
    bucket.put("folder/ä image.jpg", b"two")
    stored = bucket.get("folder/ä image.jpg")
    now = bucket.head("folder/ä image.jpg")
    assert now == ObjectVersion(stored.etag, stored.version_id, stored.last_modified)
    assert now.version_id is not None


def test_an_object_without_bytes_has_a_version_of_now_too(bucket: Bucket) -> None:
    bucket.put("a", b"")
    assert bucket.head("a").etag == hashlib.md5(usedforsecurity=False).hexdigest()


def test_a_removed_object_has_no_version_of_now_although_older_ones_can_be_read(bucket: Bucket) -> None:
    bucket.put("a", b"one")
    bucket.remove("a")
    for key in ("a", "nothing"):
        with pytest.raises(Gone) as gone:
            bucket.head(key)
        assert gone.value.date is not None
        said = datetime.strptime(gone.value.date, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        assert abs(datetime.now(UTC) - said) < timedelta(minutes=2)


def test_an_object_of_a_bucket_that_does_not_exist_is_not_called_gone(bucket: Bucket) -> None:
    with pytest.raises(BucketGone):
        bucket.store.head("no-such-bucket-here", "a", deadline_s=30.0)


def test_a_bucket_that_does_not_exist_is_the_dependencies_fault_and_not_the_objects(bucket: Bucket) -> None:
    with pytest.raises(Unavailable) as unavailable:
        bucket.store.get("no-such-bucket-here", "a", version_id=None, etag=None, max_bytes=10, deadline_s=30.0)
    assert unavailable.value.fault == "access"


def test_an_object_that_never_was_is_gone_and_no_error_tells_its_key(bucket: Bucket) -> None:
    with pytest.raises(Gone) as gone:
        bucket.get("someone's private name")
    assert "private" not in str(gone.value)


def test_a_bucket_is_listed_in_key_order_by_prefix_and_from_a_key_on(
    commands: MinioObjectStore, bucket_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.backends.s3.store._PAGE", 2)  # so that seven objects are several pages
    for number in (3, 1, 2, 5, 4):
        commands.put(bucket_name, f"in/{number} a+b.jpg", b"x" * number, "image/jpeg")
    commands.put(bucket_name, "in/deeper/6", b"x")
    commands.put(bucket_name, "out/7", b"x")

    listed = list(commands.list(bucket_name, "in/"))

    assert [entry.key for entry in listed] == [f"in/{n} a+b.jpg" for n in (1, 2, 3, 4, 5)] + ["in/deeper/6"]
    assert listed[2].size == 3
    assert listed[2].etag == hashlib.md5(b"xxx", usedforsecurity=False).hexdigest()
    assert listed[2].last_modified.endswith("Z")
    resumed = commands.list(bucket_name, "in/", start_after=listed[3].key)
    assert [entry.key for entry in resumed] == [entry.key for entry in listed[4:]]
    assert list(commands.list(bucket_name, "nothing/")) == []


def test_a_stored_object_is_named_by_its_etag_and_can_be_removed_twice(
    commands: MinioObjectStore, bucket_name: str
) -> None:
    etag = commands.put(bucket_name, "a", b"one")
    stored = commands.get(bucket_name, "a", version_id=None, etag=etag, max_bytes=10, deadline_s=30.0)
    assert stored.etag == etag
    commands.remove(bucket_name, "a")
    commands.remove(bucket_name, "a")
    commands.make_bucket(bucket_name)
    assert list(commands.list(bucket_name)) == []


def test_check_passes_on_a_bucket_that_can_be_read(commands: MinioObjectStore, bucket_name: str) -> None:
    commands.check(bucket_name)


def test_check_tells_a_missing_bucket_from_wrong_keys(
    s3: SeaweedFS, commands: MinioObjectStore, unique: Unique
) -> None:
    with pytest.raises(Misconfigured, match="TAGSTREAM_BUCKETS"):
        commands.check(unique("bucket"))
    for said, access_key, secret_key in (
        ("TAGSTREAM_S3_SECRET_KEY", s3.access_key, "wrong"),
        ("TAGSTREAM_S3_ACCESS_KEY", "unknown", s3.secret_key),
    ):
        with (
            closing(MinioObjectStore(s3.endpoint_url, access_key, secret_key)) as store,
            pytest.raises(Misconfigured, match=said),
        ):
            store.check("bucket")
