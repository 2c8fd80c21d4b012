"""Reads what a record of the enriched topic carries: scores and embedding in headers."""

from __future__ import annotations

from base64 import b64decode
from functools import lru_cache
from struct import Struct
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from schemas.stored_scores import EMBEDDING_HEADER, SCORES_HEADER, STORED_HEADERS, StoredEmbedding
from workers.retag.judgement import Fields, Made
from workers.retag.today import UnloadedModel
from workers.types import Headers

Vector: TypeAlias = NDArray[np.float16]


class Scores(NamedTuple):
    """Stored scores, best first: the first is at most 1, and the last reaches their floor."""

    ids: tuple[int, ...]
    values: tuple[float, ...]

    def are_sound(self, labels: int) -> bool:
        """Whether they fall, each of another label, to the last."""
        ids, values = self
        falling = sum(values) >= 0 and [*values] == sorted(values, reverse=True)  # a NaN makes the sum one
        return falling and len(set(ids)) == len(ids) and max(ids, default=-1) < labels


def header_of(headers: Headers, name: str) -> bytes | None:
    """The last header of this name; None: it is absent or null."""
    for key, value in reversed(headers):
        if key == name:
            return value
    return None


def stored_headers(made: Made) -> Headers:
    """What the old record carries, for the next change: an embedding where the new event shows none."""
    scores, embedding = (header_of(made.headers, name) for name in STORED_HEADERS)
    shown = made.outcome.get("embedding")
    if shown is not None:
        embedding = StoredEmbedding(shown["model"], shown["space"], b64decode(shown["data"])).encode()
    carried = ((SCORES_HEADER, scores), (EMBEDDING_HEADER, None if made.parts["embedding"] else embedding))
    return tuple([(name, value) for name, value in carried if value is not None])


def embedded(outcome: Fields, value: bytes | None, tagger: UnloadedModel) -> Vector | None:
    """The vector that an event or its header carries, (dimensions,); None: it has none of this tagger.

    Raises:
        ValueError, KeyError, TypeError: the event's embedding is none.
    """
    shown = outcome.get("embedding")
    if shown is not None:
        value = StoredEmbedding(shown["model"], shown["space"], b64decode(shown["data"], validate=True)).encode()
    try:
        found = StoredEmbedding.decode(value)
    except ValueError:
        return None
    same = (found.model, found.space) == (tagger.embedding_model, tagger.space)
    vector = np.frombuffer(found.data, "<f2")
    return vector if same and tagger.head is not None and len(vector) == tagger.head.dimensions else None


def with_scores(headers: Headers, scores: bytes) -> Headers:
    """The headers with these scores in the place of their own."""
    return (*(each for each in headers if each[0] != SCORES_HEADER), (SCORES_HEADER, scores))


@lru_cache(maxsize=512)
def pairs_of(count: int) -> Struct:
    return Struct("<" + "If" * count)
