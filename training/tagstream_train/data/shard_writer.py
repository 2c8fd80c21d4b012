"""Pack a training set's images into WebDataset shards."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagstream_train.data.images import S3, BadImage, Images
from tagstream_train.data.samples import DataSet, Sample, require_empty, write_dataset
from tagstream_train.data.shards import MAX_SHARD_BYTES
from workers.errors import Misconfigured
from workers.intake.header import sniff

Put = Callable[[str, str, bytes], Any]
"""Stores an object: bucket, key, content."""

_SUFFIX = {"jpeg": "jpg", "tiff": "tif"}


@dataclass(frozen=True, slots=True)
class Packed:
    """The packed set. `skipped`: unreadable images, with the reason."""

    dataset: DataSet
    shards: int
    skipped: dict[str, str]


def pack(
    dataset: DataSet,
    images: Images,
    out: Path,
    *,
    shard_bytes: int,
    to: str | None = None,
    put: Put | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> Packed:
    """Write the set again with its images in shards.

    Beside each image lies its line of samples.jsonl with the names of its tags, so that any reader of WebDataset can
    use the shards without the set. The same set gives the same bytes.

    Args:
        out: the new set's folder; holds the shards too, unless they go elsewhere.
        shard_bytes: a shard is closed when its images reach so many.
        to: `s3://bucket/prefix` for the shards; then `put` is needed.

    Raises:
        Misconfigured: `out` has something in it, a size that no reader takes, no image that can be read.
        Unavailable: the object store does not answer.
    """
    if not 1 <= shard_bytes <= MAX_SHARD_BYTES // 2:
        raise Misconfigured(f"Shards have from 1 to {MAX_SHARD_BYTES // 2:,} bytes, and not {shard_bytes:,}.")
    require_empty(out)
    packing = _Packing(dataset, images, out / "shards", to or "shards")
    samples: list[Sample] = []
    for number, shard in enumerate(packing.shards(shard_bytes, report)):
        samples += shard.samples
        if to is not None:
            assert put is not None
            _upload(shard.path, f"{to}/{number:06}.tar", put)
    if to is not None and packing.count:
        (out / "shards").rmdir()
    if not samples:
        raise Misconfigured(f"None of {len(packing.skipped):,} images of {dataset.folder} can be read.")
    steps = (*dataset.header.steps, "packed into shards")
    header = dataset.header
    written = write_dataset(out, samples, dataset.labels, name=header.name, steps=steps, parents=dict(header.parents))
    return Packed(written, packing.count, packing.skipped)


@dataclass(frozen=True, slots=True)
class _Shard:
    path: Path
    samples: list[Sample]


class _Packing:
    """Goes over the set once and yields each complete shard."""

    def __init__(self, dataset: DataSet, images: Images, folder: Path, name: str) -> None:
        self._dataset, self._images, self._folder, self._name = dataset, images, folder, name
        self.count = 0
        self.skipped: dict[str, str] = {}

    def shards(self, shard_bytes: int, report: Callable[[int], None]) -> Iterator[_Shard]:
        readable = self._readable(report)
        first = next(readable, None)
        while first is not None:
            shard, first = self._one(first, readable, shard_bytes)
            self.count += 1
            yield shard

    def _one(
        self, item: tuple[int, Sample, bytes] | None, rest: Iterator[tuple[int, Sample, bytes]], shard_bytes: int
    ) -> tuple[_Shard, tuple[int, Sample, bytes] | None]:
        """Fill a shard; also answers the first image of the next one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self.count:06}.tar"
        samples: list[Sample] = []
        size = 0
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            while item is not None and (not samples or size + len(item[2]) <= shard_bytes):
                number, sample, body = item
                suffix = sniff(body) or "bin"
                suffix = _SUFFIX.get(suffix, suffix)
                key = f"{number:09}"
                placed = sample.model_copy(update={"image": f"{self._name}/{path.name}/{key}.{suffix}"})
                _add(tar, f"{key}.json", self._document(placed))
                _add(tar, f"{key}.{suffix}", body)
                samples.append(placed)
                size += len(body)
                item = next(rest, None)
        return _Shard(path, samples), item

    def _readable(self, report: Callable[[int], None]) -> Iterator[tuple[int, Sample, bytes]]:
        for number, sample in enumerate(self._dataset):
            try:
                body = self._images.read(sample.image)
                self._images.check(sample.image, body)
                yield number, sample, body
            except BadImage as bad:
                self.skipped[bad.image] = bad.reason
            report(1)

    def _document(self, sample: Sample) -> bytes:
        document = sample.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        document["tags"] = [self._dataset.labels[label] for label in sample.tags]
        return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file with fixed time, owner and mode, for equal bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o444
    tar.addfile(member, io.BytesIO(content))


def _upload(path: Path, name: str, put: Put) -> None:
    bucket, _, key = name.removeprefix(S3).partition("/")
    put(bucket, key, path.read_bytes())
    path.unlink()
