"""A training set with images in a real object store: import, and training."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_train.data.images import BadImage, Images
from training.tests.unit.pictures import png
from workers.backends.s3.store import MinioObjectStore
from workers.types import StoredObject

COUNT = 20


@pytest.fixture
def store(s3: SeaweedFS, bucket_name: str) -> Iterator[MinioObjectStore]:
    with closing(MinioObjectStore(s3.endpoint_url, s3.access_key, s3.secret_key, connections=4)) as real:
        real.make_bucket(bucket_name)
        yield real


class HeadsAlone(MinioObjectStore):
    def get(self, *_: Any, **__: Any) -> StoredObject:
        raise AssertionError("it was read again")


def test_an_unchanged_object_is_not_read_again_and_a_changed_one_is(
    store: MinioObjectStore, s3: SeaweedFS, bucket_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name, sha256 = f"s3://{bucket_name}/a b.png", hashlib.sha256(png(1)).hexdigest()
    store.put(bucket_name, "a b.png", png(1))
    first = Images(tmp_path, store=store)
    assert first.sha256(name) == sha256
    first.hashes.keep()
    with closing(HeadsAlone(s3.endpoint_url, s3.access_key, s3.secret_key, connections=1)) as heads:
        Images(tmp_path, store=heads).require_alike(name, sha256)
    store.put(bucket_name, "a b.png", png(2))
    with pytest.raises(BadImage, match="not those that the set names"):
        Images(tmp_path, store=store).require_alike(name, sha256)
    with pytest.raises(BadImage, match="no such object"):
        Images(tmp_path, store=store).sha256(f"s3://{bucket_name}/gone.png")
