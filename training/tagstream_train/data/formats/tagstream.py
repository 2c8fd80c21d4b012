"""A set of our own, to be joined with others."""

from __future__ import annotations

from tagstream_train.data.formats.source import Found, Names, Request, Source
from tagstream_train.data.samples import DataSet, Sample


def read(request: Request) -> Source:
    dataset = DataSet(request.path)
    names = Names(request.labels or dataset.labels)
    same = names.labels == dataset.labels

    def ids(given: tuple[int, ...]) -> tuple[int, ...]:
        return given if same else names.ids((dataset.labels[label] for label in given), str(request.path))

    def found(sample: Sample) -> Found:
        absent = None if sample.absent is None else ids(sample.absent)
        return Found(sample.image, ids(sample.tags), sample.captions, tuple(map(ids, sample.caption_tags)), absent)

    return Source("tagstream", request.images or request.path, names.labels, map(found, dataset))
