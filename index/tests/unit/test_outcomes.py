"""Records of the enriched topic, read as rows: whole, in part, or not at all."""

import base64
from typing import Any

import numpy as np
import orjson
import pytest

from index.tests.support import MODEL, enriched, retraction, vector_of
from schemas.stored_scores import EMBEDDING_HEADER
from schemas.text import VERSION_MAX
from tagstream_index.outcomes import CONTENT, DIMENSIONS_MAX, Passed, Row, read_record, read_row
from workers.types import Assignment, Headers, Partition, Record, Unreadable

PLACE = Partition("images.enriched", 0)


def caption_of(value: bytes) -> tuple[str | None, tuple[str, ...]]:
    row = read_row(value, ())
    return row.caption, row.flaws


def with_caption(escaped: str) -> bytes:
    """An outcome with this JSON text as its caption."""
    return enriched("a.jpg", caption="HERE").value.replace(b"HERE", escaped.encode())


def test_an_outcome_with_too_deep_a_nesting_is_invalid() -> None:
    for depth, readable in ((200, True), (300, False)):
        deep = b'"label_id":0,"later":%b1%b' % (b"[" * depth, b"]" * depth)
        value = enriched("a", tags=[("dog", 0.5)]).value.replace(b'"label_id":0', deep)
        found = read_record(Record(PLACE, 0, 0, b"k", value, (), Assignment(PLACE, "")))
        assert isinstance(found, Row) is readable
        assert readable or found == Passed("unreadable", "nested too deeply")


def test_a_row_has_the_published_fields() -> None:
    tags = (("dog", 0.75), ("dog", 0.5))
    corrections = {"added": ["dog"], "removed": []}
    row = enriched("a b/ü.jpg", 7, tags=tags, version_id="v", corrections=corrections, scores=b"s").row()
    told = row._asdict()
    assert (told["subject"], told["bucket"], told["key"]) == ("photos/a b/ü.jpg", "photos", "a b/ü.jpg")
    assert (told["version"], told["published"], told["gone"]) == (7, True, False)
    assert told["produced_at"] == 1_767_225_600_000_000
    assert (told["names"], told["scores"]) == (["dog", "dog"], [0.75, 0.5])
    assert told["tags"][1] == {"name": "dog", "score": 0.5, "label_id": 1}
    assert told["corrections"] == corrections
    assert told["caption"] == "a dog beside a red car"
    assert told["provenance"]["caption"] == {"score": None, "method": "template", "guided_by": []}
    assert {"id", "event", "models", "thresholds", "status"} <= told["provenance"].keys()
    assert told["stored_scores"] == b"s"
    assert len(told["document"]) == 32
    assert (row.vector, row.flaws, row.of_version) == (None, (), False)


def test_a_retraction_has_no_content() -> None:
    row = retraction("a.jpg", 7).row()
    assert (row.gone, row.version, row.of_version) == (True, 7, False)
    assert {getattr(row, name) for name in CONTENT} == {None}
    of_version = retraction("a.jpg", 7, version_id="v").row()
    assert of_version.of_version
    assert of_version.document == enriched("a.jpg", version_id="v").row().document
    assert row.document is None


@pytest.mark.parametrize("said", [enriched, retraction])
def test_without_a_version_the_older_rule_counts_and_loses_a_tie(said: Any) -> None:
    row = said("a.jpg", None).row()
    assert row.published is False
    assert row.version == 1_767_225_600_000_000


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"a\u0000b", "a\ufffdb"),
        (r"a\ud800b", "a\ufffdb"),
        (r"a\uDC00b\uD800", "a\ufffdb\ufffd"),
        (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
    ],
)
def test_characters_that_postgresql_cant_store_are_replaced_and_reported(escaped: str, text: str) -> None:
    assert caption_of(with_caption(escaped)) == (text, ("characters",))


@pytest.mark.parametrize(
    ("escaped", "text"),
    [(r"\ud83d\ude00", "\U0001f600"), (r"\\u0000 \\\\u0000", r"\u0000 \\u0000"), (r"\ufffd\n", "\ufffd\n")],
)
def test_other_escapes_stay(escaped: str, text: str) -> None:
    assert caption_of(with_caption(escaped)) == (text, ())


def test_a_key_that_no_object_has_is_not_renamed() -> None:
    value = enriched("aHEREb.jpg").value.replace(b"HERE", rb"\u0000")
    with pytest.raises(ValueError, match="no object's key"):
        read_row(value, ())


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        enriched("a.jpg").value[:-1],
        enriched("a.jpg", VERSION_MAX + 1).value,
        enriched("a.jpg", image={"format": "jpeg", "width": 2**63, "height": 1, "bytes": 1}).value,
        enriched("a.jpg", tags=[("x" * 1_001, 0.5)]).value,
        enriched("a.jpg").but(tags=[{"name": "x", "score": 0.5, "label_id": 2**63}]).value,
        enriched("a.jpg").but(tags=[{"name": "x", "score": "0.5", "label_id": 1}]).value,
        enriched("a.jpg", caption="a photo of " + "a_" * 200).value,
        enriched("a.jpg", tags=[("1.2e-5." * 100, 0.5)]).value,
        enriched("a.jpg").but(tags=[{"name": "x", "score": 0.5, "label_id": 1, "parents": ["./" * 200]}]).value,
        enriched("a.jpg")
        .but(tags=[{"name": "x", "score": 0.5, "label_id": 1, "translations": {"de": "a_" * 200}}])
        .value,
        *(
            enriched("a.jpg").with_facts(taken_at=at).value
            for at in ("9999-01-01T00:00:00", "2026-01-01T00:00:00+99:99")
        ),
        enriched("a.jpg").with_facts(taken_at="2026-13-01T00:00:00").value,
        enriched("a.jpg").with_facts(orientation=32_768).value,
        enriched("a.jpg").with_facts(phash="1" * 17).value,
        enriched("a.jpg").with_facts(thumbhash="A" * 44).value,
        enriched("a.jpg").with_facts(place={"latitude": float("inf"), "longitude": 0}).value,
        enriched("a.jpg", document_id="photos/b.jpg").value,
        orjson.dumps({"schema": "skipped/1", "event": enriched("a").fields["event"], "reason": "stale"}),
    ],
)
def test_a_foreign_record_is_refused_without_repeating_it(value: bytes) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # each for a reason of its own
        read_row(value, ())
    assert len(str(refused.value)) < 300
    assert "a.jpg" not in str(refused.value)


@pytest.mark.parametrize(
    "caption",
    [
        "see https://photos.example/2026/11/a-dog_on-a-beach.jpg?size=large&v=2 " * 50,
        "海滩上的狗，" * 500,
        "a" * 50_000,
    ],
)
def test_long_captions_with_few_connectors_between_two_spaces_are_rows(caption: str) -> None:
    assert enriched("a.jpg", caption=caption).row().caption == caption


def test_an_embedding_comes_from_the_event_or_else_from_the_header() -> None:
    shown, stored = vector_of(1), vector_of(2)
    for said, data in ((enriched("a", vector=shown), shown), (enriched("a", vector=stored, in_header=True), stored)):
        found = said.row().vector
        assert found is not None
        assert (found.space, found.dimensions, found.model, found.data) == ("clip-vit-b-16", 8, MODEL, data)
        assert np.array_equal(found.value().to_numpy(), np.frombuffer(data, "<f2"))
    both = enriched("a", vector=shown)
    found = read_row(both.value, enriched("a", vector=stored, in_header=True).headers).vector
    assert found is not None
    assert found.data == shown


def unit(dimensions: int) -> bytes:
    return np.eye(1, dimensions, dtype="<f2").tobytes()


@pytest.mark.parametrize(
    "said",
    [
        enriched("a", vector=np.full(8, np.nan, "<f2").tobytes()),
        enriched("a", vector=np.full(8, np.inf, "<f2").tobytes()),
        enriched("a", vector=np.zeros(8, "<f2").tobytes()),
        enriched("a", vector=unit(DIMENSIONS_MAX + 1)),
        enriched("a", vector=unit(8), space="ö"),
        enriched("a", vector=unit(8), space="x" * 65),
    ],
)
def test_an_unusable_embedding_is_left_out_and_reported(said: Any) -> None:
    assert (said.row().vector, said.row().flaws) == (None, ("embedding",))


@pytest.mark.parametrize("header", [b"", b"\1", None, base64.b64encode(b"x" * 99)])
def test_a_broken_header_costs_the_embedding_alone(header: bytes | None) -> None:
    headers: Headers = ((EMBEDDING_HEADER, header),)
    row = read_row(enriched("a").value, headers)
    assert (row.vector, row.flaws) == (None, ("embedding",) if header is not None else ())
    assert row.caption


def output_record(value: bytes | None, unreadable: Unreadable | None = None) -> Record:
    return Record(PLACE, 5, 0, b"k", value, (), Assignment(PLACE, "m"), 1, unreadable)


def test_a_record_is_an_outcome_a_tombstone_or_an_error_with_its_reason() -> None:
    assert isinstance(read_record(output_record(enriched("a").value)), Row)
    assert read_record(output_record(None)) == Passed("tombstone")
    unopened = read_record(output_record(None, Unreadable("batch-too-large", "it is")))
    assert unopened == Passed("unreadable", "batch-too-large: it is")
    wrong = read_record(output_record(b"{"))
    assert isinstance(wrong, Passed)
    assert wrong.kind == "unreadable"
    assert wrong.why
