"""The consumer that the package's README shows does what it says there."""

from __future__ import annotations

import re
import tomllib
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

import schemas
from schemas.enriched_image import EnrichedImage, GoneSource, Retraction, Source
from tests.unit.schemas.documents import enriched, retraction, skip

_PACKAGE = Path(schemas.__file__).parent


def _example() -> dict[str, Any]:
    (code,) = re.findall(r"```python\n(.*?)```", (_PACKAGE / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("from tagstream_schemas.", "from schemas."), names)  # as the package is called in this checkout
    return names


index = _example()["index"]


def _put(sequencer: str | None, modified: str, version_id: str | None = None) -> EnrichedImage:
    source = Source(
        bucket="photos",
        key="a.jpg",
        version_id=version_id,
        etag="e",
        sequencer=sequencer,
        last_modified=f"2026-01-01T00:00:{modified}Z",
        sha256="a" * 64,
    )
    return enriched(source=source)


def _gone(sequencer: str | None, version_id: str | None = None) -> Retraction:
    return retraction(
        scope="version" if version_id else "object",
        source=GoneSource(bucket="photos", key="a.jpg", version_id=version_id, sequencer=sequencer),
    )


@pytest.mark.parametrize(
    "puts", [[("9", "03"), ("0A", "02"), ("0B", "01")], [(None, "01"), (None, "02"), (None, "03")]]
)
def test_the_newest_is_kept_in_any_order_of_arrival(puts: list[tuple[str | None, str]]) -> None:
    for order in permutations(_put(*put) for put in puts):
        held: dict[str, EnrichedImage | Retraction] = {}
        for output in order:
            index(output.to_bytes(), held)
        assert held == {"photos/a.jpg": _put(*puts[-1])}


@pytest.mark.parametrize("newest", [_gone("06"), _put("06", "01")])
def test_removals_and_images_are_ordered_among_each_other(newest: EnrichedImage | Retraction) -> None:
    for order in permutations([_put("04", "02"), _gone("05"), newest]):
        held: dict[str, EnrichedImage | Retraction] = {}
        for output in order:
            index(output.to_bytes(), held)
        assert held == {"photos/a.jpg": newest}


def test_the_retraction_of_a_version_leaves_the_others() -> None:
    held: dict[str, EnrichedImage | Retraction] = {"photos/a.jpg": _put("05", "01", "v2")}
    index(_gone("06", "v1").to_bytes(), held)
    assert held
    index(_gone("07", "v2").to_bytes(), held)
    assert not held


def test_the_version_null_is_that_of_an_image_without_one() -> None:
    held: dict[str, EnrichedImage | Retraction] = {"photos/a.jpg": _put("05", "01", "v2")}
    index(_gone("06", "null").to_bytes(), held)
    assert held
    held = {"photos/a.jpg": _put("05", "01")}
    index(_gone("06", "null").to_bytes(), held)
    assert not held


def test_a_skip_changes_nothing() -> None:
    held: dict[str, EnrichedImage | Retraction] = {}
    index(skip().to_bytes(), held)
    assert held == {}


def test_the_package_alone_needs_pydantic_only_as_the_whole_does() -> None:
    alone, whole = (
        tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (_PACKAGE, _PACKAGE.parent)
    )
    assert alone["dependencies"] == [line for line in whole["dependencies"] if line.startswith("pydantic>")]
