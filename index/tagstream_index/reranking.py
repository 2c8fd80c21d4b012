"""Orders found images by how well they match a sentence. This imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import torch

from tagstream_index.searching import Found
from workers.assembly.clients import object_store
from workers.assembly.local_files import FailedFile, StoredFiles, answers_of
from workers.assembly.needs import needed
from workers.models.bundle import Bundle
from workers.models.ram.alignment import load_alignment
from workers.types import Pixels

MOST = 100
"""Images that are read; later ones keep their order."""


def reranked(found: Sequence[Found], sentence: str, folder: Path, say: Callable[[str], None]) -> list[Found]:
    """The first 100 images by matching score plus similarity, then the others.

    Args:
        folder: of a bundle with an alignment part.
        say: gets a sentence for each unreadable image, which keeps its place.

    Raises:
        Misconfigured: the bundle has no such part, or no store is configured.
        Broken: no decoder can be kept alive.
    """
    settings, bundle = needed("s3_endpoint", "buckets"), Bundle.open(folder)
    alignment = load_alignment(bundle, device=settings.device)
    [meant] = alignment.sentences([sentence])

    def matched(images: Sequence[Pixels]) -> Sequence[float]:
        parts = alignment.images(images)
        pairs = torch.tensor([(image, 0) for image in range(len(images))])
        return (alignment.match(parts, [sentence], pairs) + parts.units @ meant).tolist()  # type: ignore[no-any-return]

    reader = SimpleNamespace(name=bundle.name, transform=bundle.transform, forward=matched)
    places = [place for place, each in enumerate(found[:MOST]) if each.bucket in settings.buckets]
    for place in set(range(len(found[:MOST]))) - {*places}:
        say(f"{found[place].subject} keeps its place: its bucket is not among TAGSTREAM_BUCKETS")
    scores: dict[int, float] = {}
    with closing(object_store(settings)) as store:
        files = StoredFiles([f"s3://{found[place].bucket}/{found[place].key}" for place in places], Path(), store)
        for place, answer in zip(places, answers_of(settings, files, reader), strict=True):
            if isinstance(answer, FailedFile):
                say(f"{found[place].subject} keeps its place: {answer.detail}")
            else:
                scores[place] = answer[1]
    best = iter(sorted(scores, key=lambda place: -scores[place]))
    return [found[next(best)] if place in scores else each for place, each in enumerate(found)]
