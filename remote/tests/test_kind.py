"""Fields of a user's own are a kind of result like others, without a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tagstream_remote.kind import CaptionFields, FieldsKind

from tests.unit.models.tiny import tiny_bundle
from workers.errors import Misconfigured
from workers.models.result_kinds import added_kinds, kind_of

VALUE = {"colour": "red", "people": 3, "copy": "a sign"}


def test_the_installed_package_adds_the_kind() -> None:
    assert isinstance(added_kinds()["fields"], FieldsKind)


def test_texts_are_searched_and_every_field_is_shown() -> None:
    kind = FieldsKind()
    assert kind.words(VALUE).splitlines() == ["red", "a sign"]
    assert list(kind.rows(VALUE)) == [("colour", "red"), ("people", "3"), ("copy", "a sign")]


@pytest.mark.parametrize("wrong", [{"a": None}, {"a": ["x"]}, {"a": "x" * 1001}, {f"a{n}": 1 for n in range(21)}, []])
def test_other_values_are_invalid(wrong: Any) -> None:
    assert CaptionFields.model_validate(VALUE).model_dump(mode="json") == VALUE
    with pytest.raises(ValidationError):
        CaptionFields.model_validate(wrong)


def test_no_bundle_makes_fields(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="TAGSTREAM_CAPTIONER"):
        kind_of("fields", tiny_bundle(tmp_path / "tiny"))
