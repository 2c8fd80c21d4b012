"""Data to measure with, without an import."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from tagstream_train.data.formats import Request, open_source
from tagstream_train.data.images import BadImage, Images
from tagstream_train.data.importer import sample_of
from tagstream_train.data.samples import DataSet, Sample, joined
from workers.intake.transform import apply
from workers.ports import ObjectStore
from workers.types import Pixels, Transform

_AHEAD = 32
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Opened:
    """Samples, their labels' names, and their images."""

    name: str
    samples: Sequence[Sample]
    labels: Sequence[str]
    images: Images


def open_data(request: Request, format: str | None = None, *, store: ObjectStore | None = None) -> Opened:  # noqa: A002
    """
    Raises:
        Misconfigured: it can't be read, as `open_source`, or an image can't have the name that it is given.
    """
    source = open_source(request, format)
    if source.format == "tagstream" and request.labels is None:
        dataset = DataSet(request.path)
        return Opened(dataset.header.name, list(dataset), dataset.labels, Images(source.root, store=store))
    samples: dict[str, Sample] = {}
    for found in source.items:
        known = samples.get(found.image)
        sample = sample_of(found)
        samples[found.image] = sample if known is None else joined(known, sample)
    return Opened(request.path.stem, list(samples.values()), source.labels, Images(source.root, store=store))


def decoded(
    samples: Iterable[Sample], images: Images, transform: Transform, *, threads: int, skipped: dict[str, str]
) -> Iterator[tuple[Sample, Pixels]]:
    """Yield samples in order, each with its pixels for the model.

    Args:
        skipped: gets the images that can't be used, with the reason.
    """

    def pixels(sample: Sample) -> Pixels:
        return apply(transform, images.load(sample.image, exif_transpose=transform.exif_transpose))

    with ThreadPoolExecutor(max(threads, 1), thread_name_prefix="images") as pool:
        rest = iter(samples)
        coming: deque[tuple[Sample, Future[Pixels]]] = deque()
        while True:
            coming.extend((sample, pool.submit(pixels, sample)) for sample in islice(rest, _AHEAD - len(coming)))
            if not coming:
                return
            sample, future = coming.popleft()
            try:
                yield sample, future.result()
            except BadImage as bad:
                skipped[bad.image] = bad.reason


def pieces(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while piece := list(islice(rest, size)):
        yield piece
