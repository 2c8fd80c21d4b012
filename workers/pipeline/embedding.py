"""The role of embeddings: vectors for similarity search.

One forward pass of the tagger gives tags and embedding. The output shows the embedding if the event wants it. Otherwise
a header of the record stores it, if the tags were computed.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from schemas import enriched_image
from schemas.options import Want
from schemas.stored_scores import EMBEDDING_HEADER, StoredEmbedding
from workers.errors import Misconfigured
from workers.pipeline import cache_entries as entries
from workers.pipeline.annotation import Annotation, RoleDefaults
from workers.pipeline.answers import one_each
from workers.pipeline.published import NotStored, StoredOutcome
from workers.pipeline.task import Attempt
from workers.ports import Model, SelfTested, Tagger
from workers.types import Pixels

Vector: TypeAlias = NDArray[np.float16]
"""(dimensions,) float16, of length 1 before rounding."""

_HEADER = struct.Struct("<4sI")
_MAGIC = b"tse1"
_ROUNDING = 0.01
"""Largest difference between 1 and the length of a rounded vector."""


@runtime_checkable
class Embedder(Tagger, Protocol):
    """A tagger that also gives embeddings."""

    embedding_space: str
    """The vector space: embeddings of one space can be compared. Empty: unknown until the model is loaded."""
    embedding_dimensions: int
    """Optional beside it: `embedding_model`, the digest that vectors carry where labels are no part of it."""

    def embed(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        """Return an embedding for each image, in order: (embedding_dimensions,) float32, not normalised.

        After `forward` with the same images, it should need no further computation. Runs on the device thread. Raises
        Exception: see `Tagger.forward`.
        """


class EmbeddingRole(RoleDefaults):
    """The role of a tagger that gives embeddings."""

    name: Want = "embedding"
    use = "tagger"
    kind = "embedding"

    def __init__(self, embedder: Embedder, *, keep: bool = True) -> None:
        self.model: Model = embedder
        self.comes_with = "tags" if keep else None
        self._embedder = embedder
        self._model = getattr(embedder, "embedding_model", embedder.digest)
        self.made_by = entries.tagger_key(embedder)

    def pack(self, value: StoredEmbedding) -> bytes:
        return _HEADER.pack(_MAGIC, value.dimensions) + value.data

    def unpack(self, value: bytes | None) -> StoredEmbedding | None:
        dimensions = self._embedder.embedding_dimensions
        if value is None or len(value) != _HEADER.size + 2 * dimensions:
            return None
        if _HEADER.unpack_from(value) != (_MAGIC, dimensions):
            return None
        vector = np.frombuffer(value, "<f2", dimensions, _HEADER.size).astype(np.float16)
        length = float(np.linalg.norm(vector.astype(np.float64)))
        return self._result(vector) if abs(length - 1) <= _ROUNDING else None  # a NaN fails this comparison too

    def restore(self, outcome: StoredOutcome, image: Annotation) -> StoredEmbedding:
        """The embedding of the event or its header, if of this model.

        Raises Misconfigured: this model has another space.
        """
        stored, embedder = outcome.embedding(), self._embedder
        if stored is None or stored.model != self._model:
            raise NotStored("embedding")
        if embedder.embedding_space and stored.space != embedder.embedding_space:
            raise Misconfigured(
                f"{outcome.fields['subject']}: its embedding has the space {stored.space!r}, and its model "
                f"{embedder.name} has the space {embedder.embedding_space!r}: vectors of two spaces can't be compared. "
                "Import the model under another digest, or tag these images again."
            )
        return stored

    def run(self, attempts: Sequence[Attempt]) -> Sequence[NDArray[np.float32]]:
        answers = self._embedder.embed([attempt.pixels(self._embedder) for attempt in attempts])
        return one_each(self._embedder, answers, len(attempts))

    def finish(self, answer: NDArray[np.float32]) -> StoredEmbedding:
        vector = np.asarray(answer, np.float64)
        length = float(np.linalg.norm(vector))
        if not np.isfinite(length) or length == 0:
            raise ValueError(f"{self._embedder.name}: an embedding of the length {length}")
        return self._result((vector / length).astype(np.float16))

    def _result(self, vector: Vector) -> StoredEmbedding:
        return StoredEmbedding(self._model, self._embedder.embedding_space, vector.astype("<f2", copy=False).tobytes())

    def self_test(self, attempt: Attempt) -> None:
        self.finish(self._embedder.embed([self._embedder.self_test_image()])[0])

    def check_self_test(self, answer: NDArray[np.float32]) -> None:
        """Check that the answer is an embedding.

        The tags' self-test compares numbers; without labels there is no other.
        """
        self.finish(answer)
        if not self._embedder.labels and isinstance(self._embedder, SelfTested):
            self._embedder.check_self_test(answer)

    def render(self, image: Annotation) -> Mapping[str, Any]:
        found: StoredEmbedding | None = image.results.get(self.name)
        if found is None or self.name not in image.event.options.want:
            return {}
        data = b64encode(found.data).decode()
        shown = enriched_image.Embedding(space=found.space, dimensions=found.dimensions, data=data, model=found.model)
        return {"embedding": shown}

    def header(self, image: Annotation) -> tuple[str, bytes] | None:
        found: StoredEmbedding | None = image.results.get(self.name)
        return None if found is None or self.name in image.event.options.want else (EMBEDDING_HEADER, found.encode())
