"""A training set whose images lie in a real object store: imported from there, and read from there in training."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_train.data.augment import Augment
from tagstream_train.data.formats import Request, open_source
from tagstream_train.data.images import Images
from tagstream_train.data.importer import import_dataset
from tagstream_train.data.loader import Batches
from training.tests.unit.pictures import png
from workers.backends.s3.store import MinioObjectStore

COUNT = 20


@pytest.fixture
def store(s3: SeaweedFS, bucket_name: str) -> Iterator[MinioObjectStore]:
    with closing(MinioObjectStore(s3.endpoint_url, s3.access_key, s3.secret_key, connections=4)) as real:
        real.make_bucket(bucket_name)
        yield real


def test_a_set_lives_in_a_bucket_from_import_to_training(
    store: MinioObjectStore, bucket_name: str, tmp_path: Path
) -> None:
    rows = ["image,tags"]
    for number in range(COUNT):
        store.put(bucket_name, f"photos/shade {number}.png", png(number))
        rows.append(f"s3://{bucket_name}/photos/shade {number}.png,{'odd' if number % 2 else 'even'}")
    rows.append(f"s3://{bucket_name}/photos/gone.png,odd")
    (tmp_path / "table.csv").write_text("\n".join(rows))

    imported = import_dataset([open_source(Request(tmp_path / "table.csv"))], tmp_path / "set", store=store)
    assert list(imported.skipped) == [f"s3://{bucket_name}/photos/gone.png"]

    dataset = imported.dataset
    images = Images(dataset.folder, store=store)
    batches = Batches(
        dataset.lines(),
        images=images,
        side=8,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        batch=4,
        augment=Augment(),
        workers=2,
    )
    seen = [sample.sha256 for batch in batches for sample in batch.samples]
    assert sorted(map(str, seen)) == sorted(hashlib.sha256(png(number)).hexdigest() for number in range(COUNT))
    assert batches.skipped == {}
