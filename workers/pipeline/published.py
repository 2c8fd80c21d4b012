"""Reads outcomes from the output topic: their fields, their order, and the results that their headers store."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

import orjson

from schemas.stored_scores import EMBEDDING_HEADER, StoredEmbedding
from schemas.text import VERSION_MAX
from schemas.version import Order, order_of
from workers.types import Headers

NeedReason: TypeAlias = Literal[
    "partial",
    "no-options",
    "tagger",
    "captioner",
    "no-scores",
    "labels",
    "below-floor",
    "guide",
    "embedding",
    "facts",
    "results",
]
"""Why an outcome can't be remade without the image: a closed list."""
NEEDS: Final[tuple[NeedReason, ...]] = get_args(NeedReason)

Fields: TypeAlias = Mapping[str, Any]
"""A JSON object, unchecked."""

WRONG_SHAPE: Final = (KeyError, TypeError, AttributeError, IndexError)
"""Errors from reading a JSON object whose fields have other types than an outcome's."""
_STATES: Final = ("enriched-image/1", "image-retraction/1")


class NotStored(Exception):
    """A record does not store a result that the current settings need."""

    def __init__(self, reason: NeedReason) -> None:
        super().__init__(reason)
        self.reason: NeedReason = reason


class StoredOutcome(NamedTuple):
    """An enriched image from the topic, unchecked."""

    fields: Fields
    headers: Headers

    def header(self, name: str) -> bytes | None:
        """The last header of this name; None: it is absent or null."""
        for key, value in reversed(self.headers):
            if key == name:
                return value
        return None

    def embedding_header(self) -> bytes | None:
        """The header of the embedding that the event or a header has.

        Raises ValueError, KeyError, TypeError: the event's embedding is invalid.
        """
        shown = self.fields.get("embedding")
        if shown is None:
            return self.header(EMBEDDING_HEADER)
        return StoredEmbedding(shown["model"], shown["space"], b64decode(shown["data"], validate=True)).encode()

    def embedding(self) -> StoredEmbedding | None:
        """The embedding of the event or the headers; None: there is no valid one. Raises as `embedding_header`."""
        value = self.embedding_header()
        try:
            return None if value is None else StoredEmbedding.decode(value)
        except ValueError:
            return None


def read_document(value: bytes) -> dict[str, Any]:
    """A record's JSON object, unchecked. Raises ValueError: it is something else."""
    document = orjson.loads(value)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    return document


def order_in(document: Fields) -> Order:
    """The order of an enriched image or retraction within its subject. Raises ValueError: the version is invalid."""
    version, gone = document.get("version"), document["schema"] == "image-retraction/1"
    if version is not None and not (type(version) is int and 0 <= version <= VERSION_MAX):
        raise ValueError("its version is no whole number")
    return order_of(
        version,
        document["produced_at"],
        last_modified=None if gone else document["source"]["last_modified"],
        event_time=document["event"]["time"],
        gone=gone,
    )


def version_in(value: bytes) -> int | None:
    """The version of an enriched image or a retraction; None for other outcomes.

    Raises ValueError: it is no outcome.
    """
    document = read_document(value)
    try:
        return order_in(document).version if document.get("schema") in _STATES else None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"an outcome of another shape: {error!r}") from None
