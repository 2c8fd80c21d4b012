"""The facts of a picture as a result: they come with its pixels, and no model runs for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from schemas import writing
from schemas.enriched_image import ImageFacts
from workers.facts import pack_facts, unpack_facts
from workers.pipeline.annotation import OptionRules, RoleDefaults
from workers.types import FACTS_VERSION, Facts, FactsMode, PictureFacts

FACTS: Final = "facts"
"""The name in `Annotation.results`."""

_OPTION_RULES: OptionRules = {}


class FactsResult(RoleDefaults):
    """The cached result of every event (see `roles.Result`)."""

    name = FACTS
    kind = FACTS
    option_rules = _OPTION_RULES

    def __init__(self, mode: FactsMode) -> None:
        self._mode: FactsMode = mode
        self.made_by = f"{FACTS_VERSION}:{mode}"

    def pack(self, value: PictureFacts) -> bytes:
        return pack_facts(value)

    def unpack(self, value: bytes | None) -> PictureFacts | None:
        return unpack_facts(value, self._mode)


def image_of(facts: Facts, told: PictureFacts | None) -> writing.Fields:
    """The field `image` of an outcome; of a rendition, with what is known of its original."""
    original = facts.original
    shown = original if original is not None and original.width else facts
    if original is not None and told is not None:  # the EXIF of one, hashes of the other
        exif, hashes = original.told or told, told
        turned = original.told if original.width else told  # whose size is shown
        orientation = turned.orientation if turned is not None else None
        told = replace(exif, orientation=orientation, phash=hashes.phash, thumbhash=hashes.thumbhash)
    return writing.image_facts(
        format=shown.format,
        width=shown.width,
        height=shown.height,
        bytes=facts.size if original is None else original.size,
        of=None if original is None else "rendition",
        **fields_of(told),
    )


def fields_of(facts: PictureFacts | None) -> Mapping[str, Any]:
    """The facts as fields of `schemas.writing.image_facts`."""
    if facts is None:
        return {}
    place = facts.place
    return {
        "taken_at": facts.taken_at,
        "orientation": facts.orientation,
        "phash": facts.phash,
        "thumbhash": facts.thumbhash,
        "place": None if place is None else {"latitude": place[0], "longitude": place[1]},
        "facts_missing": facts.missing,
    }


def facts_in(image: ImageFacts) -> PictureFacts:
    """The facts of an earlier outcome."""
    place = None if image.place is None else (image.place.latitude, image.place.longitude)
    return PictureFacts(image.taken_at, image.orientation, image.phash, image.thumbhash, place, image.facts_missing)
