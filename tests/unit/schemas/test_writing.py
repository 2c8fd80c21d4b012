"""The fast writer gives the same bytes as the models, with every field."""

from collections.abc import Callable
from typing import Any, Literal

import orjson
import pytest
from pydantic import BaseModel, ConfigDict, Field

from schemas import writing
from schemas.enriched_image import Cache, CaptionText, EnrichedImage, EventRef, ImageFacts, Source, Tag


class _Small(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    schema_name: Literal["small/1"] = Field(default="small/1", alias="schema")
    name: str
    about: str | None = None
    rare: str | None = Field(default=None, exclude_if=lambda value: value is None)


class _Grown(_Small):
    more: int = 7
    needed: int


def test_a_new_field_of_a_model_is_written() -> None:
    """Guard: a second list of fields."""
    cases: list[tuple[type[BaseModel], dict[str, Any]]] = [
        (_Small, {"name": "a"}),
        (_Small, {"name": "a", "rare": "b", "about": "c"}),
        (_Grown, {"name": "a", "needed": 3}),
    ]
    for model, values in cases:
        assert orjson.dumps(writing.writer(model)(**values)) == model(**values).model_dump_json().encode()
    with pytest.raises(TypeError):
        writing.writer(_Grown)(name="a")
    with pytest.raises(TypeError):
        writing.writer(_Small)(name="a", unknown="b")


def test_each_part_of_an_enriched_image_has_its_models_fields() -> None:
    written: dict[type[BaseModel], Callable[..., writing.Fields]] = {
        EventRef: writing.event_ref,
        Source: writing.source,
        ImageFacts: writing.image_facts,
        Tag: writing.tag,
        CaptionText: writing.caption_text,
        Cache: writing.cache,
        EnrichedImage: writing.enriched_image,
    }
    for model, write in written.items():
        fields = write(**{name: name for name in model.model_fields})
        assert fields == {field.alias or name: name for name, field in model.model_fields.items()}, model
