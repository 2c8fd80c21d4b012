"""Photos by a model: a local one's embedding, and found ones by how well they match a sentence. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from tagstream_index.query import Embedding
from tagstream_index.searching import Found
from workers.assembly.clients import object_store
from workers.assembly.composition import load_models
from workers.assembly.local_files import FailedFile, LocalFiles, StoredFiles, answers_of
from workers.assembly.needs import needed, with_models
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.ram.alignment import load_alignment
from workers.pipeline.embedding import Embedder, EmbeddingRole
from workers.types import Pixels

MOST = 100
"""Images that are reranked; later ones keep their order."""


def embedding_of(photo: Path, bundle: str | None, note: Callable[[str], object]) -> Embedding:
    """The embedding of a photo, by the worker's decoders, limits and model.

    Args:
        bundle: folder of a tagger that gives embeddings; None: TAGSTREAM_TAGGER.
        note: gets a sentence if the weights are random.

    Raises:
        Misconfigured: the photo can't be read or decoded, or the tagger does not load or gives no embeddings.
        Broken: the device does not start.
    """
    if not photo.is_file():
        raise Misconfigured(f"{photo}: there is no such file")
    settings = with_models(bundle, "none", None)
    tagger = load_models(settings)["tagger"]
    if not isinstance(tagger, Embedder):
        others = "name compact, a bundle of RAM or RAM++ or a dual encoder (--bundle, TAGSTREAM_TAGGER)"
        raise Misconfigured(f"the tagger {tagger.name} gives no embeddings: {others}")
    tagger.max_batch = 1
    tagger.warm_up()
    if tagger.random_weights:
        note(f"the weights of {tagger.name} are random: distances mean nothing.")
    reader = SimpleNamespace(name=tagger.name, transform=tagger.transform, forward=tagger.embed)
    [answer] = answers_of(settings, LocalFiles([photo]), reader)
    if isinstance(answer, FailedFile):
        raise Misconfigured(f"{photo}: {answer.detail}")
    found = EmbeddingRole(tagger).finish(answer[1])
    return Embedding(found.space, np.frombuffer(found.data, "<f2"))


def reranked(found: Sequence[Found], sentence: str, folder: Path, say: Callable[[str], None]) -> list[Found]:
    """The first 100 images by matching score plus similarity, then the others.

    Args:
        folder: of a bundle with an alignment part.
        say: gets a sentence for each unreadable image, which keeps its place.

    Raises:
        Misconfigured, Broken: the bundle has no such part, no store is configured, or no decoder can be kept alive.
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
