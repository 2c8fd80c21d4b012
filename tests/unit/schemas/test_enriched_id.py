"""The id of an enriched image."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dialects.words import UnreadableDocument, document
from schemas.enriched_image import Models, Thresholds, enriched_id
from schemas.options import Options
from tests.unit.schemas.documents import CAPTIONER, TAGGER, patient

BASE: dict[str, Any] = {
    "bucket": "photos",
    "key": "a.jpg",
    "version_id": None,
    "etag": "abc",
    "sequencer": "0A",
    "event_id": "evt-1",
    "models": Models(tagger=TAGGER, captioner=CAPTIONER),
    "thresholds": Thresholds(profile="default", digest="t1"),
    "options": Options(),
    "status": "complete",
}


def identify(**fields: Any) -> str:
    return enriched_id(**(BASE | fields))


def test_the_encoding_can_be_repeated_by_hand() -> None:
    written = (
        '["enriched-image/1","photos","ü \\"a\\".jpg",["etag","abc"],["sequencer","0A"],'
        f'["{"c" * 64}",null,"t1"],[["tags","caption"],["dog"],null],"partial"]'
    )
    made = identify(
        key='ü "a".jpg', models=Models(tagger=TAGGER), options=Options(guide_tags=("dog",)), status="partial"
    )
    assert made == hashlib.sha256(written.encode()).hexdigest()


def test_a_redelivery_has_the_same_id() -> None:
    assert identify() == identify()


@pytest.mark.parametrize(
    "fields",
    [
        {"bucket": "other"},
        {"key": "b.jpg"},
        {"version_id": "v1"},
        {"etag": "def"},
        {"sequencer": "0B"},
        {"sequencer": None},
        {"models": Models(tagger=TAGGER)},
        {"models": Models(tagger=CAPTIONER, captioner=TAGGER)},
        {"models": Models(tagger=TAGGER.model_copy(update={"digest": "f" * 64}), captioner=CAPTIONER)},
        {"thresholds": Thresholds(profile="default", digest="t2")},
        {"status": "partial"},
    ],
)
def test_whatever_makes_another_result_makes_another_id(fields: dict[str, Any]) -> None:
    assert identify(**fields) != identify()


OTHER_OPTIONS: dict[str, Any] = {"want": ("tags",), "guide_tags": ("dog",), "profile": "default"}
"""For each field of `Options` a value that is not its default."""


@pytest.mark.parametrize("field", Options.model_fields)
def test_every_option_is_part_of_the_id(field: str) -> None:
    assert identify(options=Options(**{field: OTHER_OPTIONS[field]})) != identify()


def test_a_new_upload_of_the_same_bytes_has_another_id() -> None:
    assert identify(sequencer="0B") != identify(sequencer="0A")
    assert identify(sequencer=None, event_id="evt-2") != identify(sequencer=None, event_id="evt-1")


def test_what_another_word_stands_in_for_does_not_count() -> None:
    assert identify(event_id="evt-2") == identify()
    assert identify(version_id="v1", etag="def") == identify(version_id="v1")


def test_the_precision_is_not_part_of_the_id() -> None:
    other = Models(tagger=TAGGER.model_copy(update={"precision": "int8"}), captioner=CAPTIONER)
    assert identify(models=other) == identify()


_parts = st.text(st.sampled_from('ab",[]\\/\n'), max_size=4)


@patient
@given(st.tuples(_parts, _parts, _parts), st.tuples(_parts, _parts, _parts))
def test_no_two_objects_share_an_encoding(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    ids = [identify(bucket=bucket, key=key, etag=etag) for bucket, key, etag in (one, other)]
    assert (ids[0] == ids[1]) == (one == other)


_any_text = st.text(st.characters(exclude_categories=["Cs"]))


@patient
@given(_any_text, _any_text, st.lists(_any_text, max_size=3))
def test_the_encoding_is_that_of_any_writer_of_canonical_json(key: str, etag: str, guide: list[str]) -> None:
    options = Options.model_construct(guide_tags=tuple(guide))
    parts = [
        "enriched-image/1",
        "photos",
        key,
        ["etag", etag],
        ["sequencer", "0A"],
        ["c" * 64, "d" * 64, "t1"],
        [["tags", "caption"], guide, None],
        "complete",
    ]
    canonical = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    assert identify(key=key, etag=etag, options=options) == hashlib.sha256(canonical.encode()).hexdigest()


def test_text_that_utf_8_can_not_hold_has_no_id() -> None:
    """None comes so far: neither JSON in UTF-8 nor an event's model takes it."""
    with pytest.raises(ValueError, match="surrogates"):
        identify(key="\ud800")
    with pytest.raises(UnreadableDocument):
        document(b'{"key": "\\ud800"}')
