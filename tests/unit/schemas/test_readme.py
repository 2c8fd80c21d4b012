"""The consumer that the package's README shows does what it says there."""

from __future__ import annotations

import tomllib
from itertools import permutations

from schemas.enriched_image import EnrichedImage, GoneSource, Retraction, Source
from tests.support.readme_reader import PACKAGE, readme_reader
from tests.unit.schemas.documents import enriched, retraction, skip

NAMES = readme_reader()
index, shown = NAMES["index"], NAMES["shown"]

Output = EnrichedImage | Retraction


def _put(version: int | None, modified: int = 0, version_id: str | None = None, sequencer: str | None = None) -> Output:
    """An image, named by its etag."""
    source = Source(
        bucket="photos",
        key="a.jpg",
        version_id=version_id,
        etag=f"{version}/{modified}",
        sequencer=sequencer,
        last_modified=f"2026-01-01T00:00:{modified:02}Z",
        sha256="a" * 64,
    )
    return enriched(version=version, source=source)


def _gone(version: int | None, version_id: str | None = None, sequencer: str | None = None) -> Output:
    return retraction(
        version=version,
        scope="version" if version_id else "object",
        source=GoneSource(bucket="photos", key="a.jpg", version_id=version_id, sequencer=sequencer),
    )


def _shown(*outputs: Output) -> set[str | None]:
    """What is shown in the end, in any order of arrival."""
    ends: set[str | None] = set()
    for order in permutations(outputs):
        held: dict[bytes, Output] = {}
        for output in order:
            index(output.to_bytes(), held)
        image = shown("photos/a.jpg", held)
        ends.add(None if image is None else image.source.etag)
    return ends


def test_the_newest_is_kept_in_any_order_of_arrival_and_no_sequencer_changes_that() -> None:
    forged = "F" * 128
    assert _shown(_put(1, sequencer=forged), _put(3), _put(2, sequencer="0A")) == {"3/0"}
    assert _shown(_put(1), _gone(2, sequencer=forged), _put(3)) == {"3/0"}
    assert _shown(_put(1, sequencer=forged), _gone(2)) == {None}


def test_what_is_gone_comes_not_back_by_what_is_older() -> None:
    assert _shown(_put(1), _put(2), _gone(3)) == {None}


def test_without_a_version_the_date_decides_and_any_version_as_great_wins() -> None:
    modified = 1_767_225_600_000_000
    assert _shown(_put(None, 1), _put(None, 3), _put(None, 2)) == {"None/3"}
    assert _shown(_put(None, 1), _put(modified + 1_000_000), _put(None, 0)) == {f"{modified + 1_000_000}/0"}
    assert _shown(_put(None, 1), _put(modified + 999_999)) == {"None/1"}


def test_the_retraction_of_a_version_takes_what_was_made_of_it_and_leaves_the_others() -> None:
    assert _shown(_put(5, version_id="v2"), _gone(6, "v1")) == {"5/0"}
    assert _shown(_put(5, version_id="v2"), _gone(6, "v2")) == {None}
    assert _shown(_put(5, version_id="v2"), _gone(6, "v2"), _put(4, version_id="v1")) == {None}, "none is older"
    assert _shown(_put(5, version_id="v2"), _gone(6, "v2"), _put(7, version_id="v3")) == {"7/0"}


def test_the_version_null_is_that_of_an_image_without_one_and_may_be_written_again() -> None:
    assert _shown(_put(5, version_id="v2"), _gone(6, "null")) == {"5/0"}
    assert _shown(_put(5), _gone(6, "null")) == {None}
    assert _shown(_put(5), _gone(6, "null"), _put(7)) == {"7/0"}


def test_a_skip_changes_nothing() -> None:
    held: dict[bytes, Output] = {}
    index(skip().to_bytes(), held)
    assert held == {}


def test_the_package_alone_needs_pydantic_only_as_the_whole_does() -> None:
    alone, whole = (
        tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (PACKAGE, PACKAGE.parent)
    )
    assert alone["dependencies"] == [line for line in whole["dependencies"] if line.startswith("pydantic>")]
