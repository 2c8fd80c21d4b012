"""Pack a training set's images into WebDataset shards."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
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
    folder = out / "shards"
    folder.mkdir(parents=True)
    samples: list[Sample] = []
    skipped: dict[str, str] = {}
    shard = -1
    readable = _readable(dataset, images, skipped, report)
    for shard, items in groupby(_divided(readable, shard_bytes), key=itemgetter(0)):
        path = folder / f"{shard:06}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            samples += [_packed(tar, f"{to or 'shards'}/{path.name}", item, dataset.labels) for _, item in items]
        if to is not None:
            assert put is not None
            bucket, _, key = f"{to}/{path.name}".removeprefix(S3).partition("/")
            put(bucket, key, path.read_bytes())
            path.unlink()
    if to is not None:
        folder.rmdir()
    if not samples:
        raise Misconfigured(f"None of {len(skipped):,} images of {dataset.folder} can be read.")
    steps = (*dataset.header.steps, "packed into shards")
    header = dataset.header
    written = write_dataset(out, samples, dataset.labels, name=header.name, steps=steps, parents=dict(header.parents))
    return Packed(written, shard + 1, skipped)


_Item = tuple[int, Sample, bytes]
"""A sample's number, the sample, and its image's bytes."""


def _readable(
    dataset: DataSet, images: Images, skipped: dict[str, str], report: Callable[[int], None]
) -> Iterator[_Item]:
    for number, sample in enumerate(dataset):
        try:
            body = images.read(sample.image)
            images.check(sample.image, body)
            yield number, sample, body
        except BadImage as bad:
            skipped[bad.image] = bad.reason
        report(1)


def _divided(items: Iterable[_Item], shard_bytes: int) -> Iterator[tuple[int, _Item]]:
    """Items with the number of their shard."""
    shard = size = 0
    for item in items:
        if size and size + len(item[2]) > shard_bytes:
            shard, size = shard + 1, 0
        size += len(item[2])
        yield shard, item


def _packed(tar: tarfile.TarFile, shard: str, item: _Item, labels: Sequence[str]) -> Sample:
    """Add an image and its document; the sample that names it there."""
    number, sample, body = item
    kind = sniff(body) or "bin"
    key, suffix = f"{number:09}", _SUFFIX.get(kind, kind)
    placed = sample.model_copy(update={"image": f"{shard}/{key}.{suffix}"})
    document = placed.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    document["tags"] = [labels[label] for label in sample.tags]
    _add(tar, f"{key}.json", json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode())
    _add(tar, f"{key}.{suffix}", body)
    return placed


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file with fixed time, owner and mode, for equal bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o444
    tar.addfile(member, io.BytesIO(content))
