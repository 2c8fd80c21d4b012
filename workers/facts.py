"""The facts of a picture as bytes: in the cache, and on their way from a decoder. Their reader trusts neither."""

from __future__ import annotations

from typing import Final

import orjson
from pydantic import TypeAdapter, ValidationError

from workers.types import FactsMode, PictureFacts

_MOST_BYTES: Final = 400
"""Packed facts have at most 250."""
_FACTS: Final = TypeAdapter(PictureFacts)


def pack_facts(facts: PictureFacts) -> bytes:
    return orjson.dumps(facts)


def unpack_facts(value: bytes | None, mode: FactsMode) -> PictureFacts | None:
    """The packed facts; None if they are invalid, or more than TAGSTREAM_FACTS allows.

    Every picture has a ThumbHash.
    """
    if value is None or mode == "off" or len(value) > _MOST_BYTES:
        return None
    try:
        facts = _FACTS.validate_json(value)
    except ValidationError:
        return None
    return facts if facts.thumbhash is not None and (mode == "place" or facts.place is None) else None
