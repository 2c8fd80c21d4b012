"""Import: annotations of any format into a training set."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from schemas.printable import counted
from schemas.text import first_fault
from tagstream_train.data.formats import Found, Source
from tagstream_train.data.images import S3, BadImage, Images, below, link
from tagstream_train.data.samples import (
    DataSet,
    Ids,
    Origin,
    Sample,
    joined,
    places,
    require_empty,
    split,
    write_again,
    write_dataset,
)
from tagstream_train.data.shards import place_of
from workers.errors import Misconfigured
from workers.intake.limits import Limits
from workers.ports import ObjectStore

SKIPPED = "skipped.txt"


@dataclass(frozen=True, slots=True)
class Imported:
    """An imported set, and its skipped and merged images.

    Args:
        merged: number of repeated images, under this name or another.
    """

    dataset: DataSet
    skipped: dict[str, str]
    merged: int


def import_dataset(
    sources: Sequence[Source],
    out: Path,
    *,
    store: ObjectStore | None = None,
    limits: Limits | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> Imported:
    """Check every image's header and write the usable ones.

    Equal images become one sample with the tags and captions of all. Files are linked, or copied if the file system has
    no links; objects stay in their bucket. skipped.txt lists the skipped images.

    Raises:
        Misconfigured: `out` is not empty, unreadable annotations, or no usable image.
        Unavailable: the object store does not answer.
    """
    require_empty(out)
    labels = _labels(sources)
    samples: dict[str, Sample] = {}
    skipped: dict[str, str] = {}
    taken = 0
    for source in sources:
        ids = _ids_of(source, labels)
        images = Images(source.root, store=store, limits=limits)
        for found in source.items:
            try:
                _take(samples, out, source.root.resolve(), found, ids, images)
                taken += 1
            except BadImage as bad:
                skipped[bad.image] = bad.reason
            report(1)
    if not samples:
        roots = ", ".join(str(source.root) for source in sources)
        raise no_image(skipped, f" below {roots}", " Say where they are with --images.")
    steps = [f"imported from {source.format} ({source.root.name})" for source in sources]
    dataset = write_dataset(out, samples.values(), labels, name=out.name, steps=steps)
    if skipped:
        lines = (f"{image}\t{reason}\n" for image, reason in skipped.items())
        (out / SKIPPED).write_text("".join(lines), encoding="utf-8")
    return Imported(dataset, skipped, taken - len(samples))


def write_parts(dataset: DataSet, out: Path, fractions: Mapping[str, float], *, salt: str = "") -> list[DataSet]:
    """Write each part of a set (`samples.split`) as a set.

    Raises:
        Misconfigured: `out` is not empty, an empty part, or a missing image.
    """
    require_empty(out)
    step = f"a part of {dataset.header.name} ({', '.join(f'{part} {n:g}' for part, n in fractions.items())})"
    written = []
    for part, samples in split(dataset, fractions, salt=salt).items():
        if not samples:
            continue
        for sample in samples:
            if not sample.image.startswith(S3):
                link(below(dataset.folder.resolve(), sample.image), out / part / sample.image)
        name = f"{dataset.header.name}-{part}"
        written.append(write_again(dataset, out / part, samples, dataset.labels, step, name=name))
    return written


def sample_of(found: Found, *, origins: Mapping[int, Origin] | None = None, sha256: str | None = None) -> Sample:
    """An image's annotations as a sample.

    Raises:
        BadImage: its name or its annotations don't fit into a set.
    """
    try:
        said = {each.name: getattr(found, each.name) for each in fields(found)}
        return Sample(**said, origins=dict(origins or {}), sha256=sha256)
    except ValidationError as error:
        raise BadImage(found.image, first_fault(error)) from None


def _take(
    samples: dict[str, Sample], out: Path, root: Path, found: Found, ids: Callable[[Ids], Ids], images: Images
) -> None:
    """Add an image, or further annotations of a known one."""
    body = images.read(found.image)
    images.check(found.image, body)
    sha256 = hashlib.sha256(body).hexdigest()
    tags = ids(found.tags)
    absent = None if found.absent is None else ids(found.absent)
    said = replace(found, tags=tags, caption_tags=tuple(map(ids, found.caption_tags)), absent=absent)
    sample = sample_of(said, origins=dict.fromkeys(tags, "given"), sha256=sha256)
    if sha256 in samples:
        samples[sha256] = joined(samples[sha256], sample)
        return
    image = found.image
    if not image.startswith(S3):
        place = place_of(image)
        image = _name(out, f"{place.shard.removesuffix('.tar')}/{place.member}" if place else image, sha256)
        if place:
            (out / image).write_bytes(body)
        else:
            link(below(root, found.image), out / image)
    samples[sha256] = sample.model_copy(update={"image": image})


def _name(out: Path, name: str, sha256: str) -> str:
    """Choose a free file name for an image, and make its folder."""
    kept = PurePosixPath("images", *(part for part in PurePosixPath(name).parts if part not in ("..", "/", "images")))
    other = kept.with_name(f"{kept.stem}-{sha256[:8]}{kept.suffix}")  # another source has an image of this name
    last = PurePosixPath("images", f"{sha256}{kept.suffix[:5]}")
    return str(next(each for each in (kept, other, last) if each == last or _is_free(out / each)))


def _is_free(path: Path) -> bool:
    """Whether a file can take this path."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return not path.exists()
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG):
            return False
        raise


def _labels(sources: Sequence[Source]) -> tuple[str, ...]:
    """All label names; of several sources each name once."""
    if len(sources) == 1:
        return tuple(sources[0].labels)
    return tuple(dict.fromkeys(label for source in sources for label in source.labels))


def _ids_of(source: Source, labels: Sequence[str]) -> Callable[[Ids], Ids]:
    """Map a source's label ids to the set's."""
    if tuple(source.labels) == tuple(labels):
        return lambda given: given
    numbers = places(labels)
    table = tuple(numbers[label] for label in source.labels)
    return lambda given: tuple(sorted({table[label] for label in given}))


def skipped_line(skipped: Mapping[str, str], where: str = "") -> str:
    """How many images were skipped, and why the first."""
    image, reason = next(iter(skipped.items()))
    return f"{counted(len(skipped), 'image')} can't be used{where}; the first is {image}: {reason}"


def no_image(skipped: Mapping[str, str], where: str = "", advice: str = "") -> Misconfigured:
    """The error of annotations without a usable image."""
    if not skipped:
        return Misconfigured("The annotations name no image.")
    image, reason = next(iter(skipped.items()))
    return Misconfigured(f"None of {len(skipped):,} images{where} can be used. The first is {image}: {reason}.{advice}")
