"""What goes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.enriched_image import CaptionText, EnrichedImage, GoneSource, Retraction, Skip, Tag, read_output
from tests.unit.schemas.documents import EVENT, VERSION, enriched, keys, patient, retraction, skip

OUTPUTS = [
    enriched(),
    enriched(status="partial", reason="caption-failed", caption=None),
    retraction(),
    retraction(scope="version"),
    skip(),
    skip(subject=None, reason="test-event"),
]


def test_an_enriched_image_on_the_wire() -> None:
    assert json.loads(enriched().to_bytes()) == {
        "schema": "enriched-image/1",
        "id": "e" * 64,
        "subject": "photos/a.jpg",
        "document_id": "photos/a.jpg",
        "version": VERSION,
        "status": "complete",
        "reason": None,
        "event": {
            "id": "18EB1FF02124DBCA",
            "dialect": "s3",
            "time": "2026-11-24T23:46:32.646Z",
            "topic": "images",
            "partition": 3,
            "offset": 17,
            "index": 0,
        },
        "source": {
            "bucket": "photos",
            "key": "a.jpg",
            "version_id": None,
            "etag": "336311a016184326ddbdd61edd4eeb52",
            "sequencer": "18EB1FF02124DBCA",
            "last_modified": "2026-11-24T23:46:32Z",
            "sha256": "a" * 64,
        },
        "image": {"format": "jpeg", "width": 640, "height": 480, "bytes": 12345},
        "tags": [
            {"name": "dog", "score": 0.9, "label_id": 7, "translations": {"zh": "狗"}},
            {"name": "grass", "score": 0.5, "label_id": 2},
        ],
        "caption": {
            "text": "a dog on grass",
            "score": None,
            "method": "template",
            "guided_by": ["dog", "grass"],
        },
        "models": {
            "tagger": {"name": "compact", "digest": "c" * 64, "precision": "bf16", "random_weights": False},
            "captioner": {"name": "template", "digest": "d" * 64, "precision": "fp32", "random_weights": False},
        },
        "thresholds": {"profile": "default", "digest": "0123456789abcdef"},
        "timings_ms": {"fetch": 1.5, "decode": 3.25},
        "produced_at": "2026-11-24T23:46:33.001002Z",
        "cache": {"source": "miss", "tags": "miss", "caption": "hit"},
    }


def test_a_retraction_on_the_wire() -> None:
    assert json.loads(retraction(scope="version").to_bytes()) == {
        "schema": "image-retraction/1",
        "subject": "photos/a.jpg",
        "document_id": "photos?versionId=v1/a.jpg",
        "version": VERSION,
        "scope": "version",
        "event": json.loads(EVENT.model_dump_json()),
        "source": {"bucket": "photos", "key": "a.jpg", "version_id": "v1", "sequencer": "18EB1FF02124DBCA"},
        "produced_at": "2026-11-24T23:46:33Z",
    }


def test_a_skip_on_the_wire() -> None:
    assert json.loads(skip().to_bytes()) == {
        "schema": "skipped/1",
        "event": json.loads(EVENT.model_dump_json()),
        "subject": "photos/a.jpg",
        "reason": "stale",
    }


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output.schema_name)
def test_an_output_reads_back_as_itself(output: EnrichedImage | Retraction | Skip) -> None:
    assert read_output(output.to_bytes()) == output


def test_text_travels_as_utf_8_and_not_escaped() -> None:
    assert "狗".encode() in enriched().to_bytes()


def test_what_was_written_before_there_were_versions_can_be_read() -> None:
    for output in (enriched(), retraction()):
        before = json.loads(output.to_bytes())
        del before["document_id"], before["version"]
        read = read_output(json.dumps(before).encode())
        assert read == output.model_copy(update={"document_id": None, "version": None})
        assert json.loads(read.to_bytes()) == before


def test_a_reader_passes_over_fields_of_a_later_version() -> None:
    later = json.loads(enriched().to_bytes())
    later["mood"] = later["source"]["colour"] = later["tags"][0]["box"] = "new"
    assert read_output(json.dumps(later).encode()) == enriched()


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b'{"schema": "enriched-image/9"}', b'{"schema": "skipped/1"}'])
def test_a_reader_refuses_what_is_none_of_ours(value: bytes) -> None:
    with pytest.raises(ValidationError):
        read_output(value)


def test_a_writer_can_not_add_a_field() -> None:
    with pytest.raises(ValidationError, match="mood"):
        enriched(mood="sunny")


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "partial"},
        {"reason": "caption-failed"},
        {"subject": "photos/other.jpg"},
        {"document_id": "photos/other.jpg"},
        {"version": -1},
        {"version": 2**53},
        {"version": 1.5},
        {"tags": (Tag(name="a", score=0.1, label_id=0), Tag(name="b", score=0.2, label_id=1))},
        {"tags": ({"name": "a", "score": 1.0, "label_id": None},)},
        {"produced_at": "now"},
        {"produced_at": "2026-11-24T23:46:33"},
        {"timings_ms": {"fetch": -1.0}},
        {"timings_ms": {"fetch": float("inf")}},
        {"status": "done"},
    ],
)
def test_what_contradicts_itself_is_not_written(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        enriched(**fields)


def test_only_a_persons_tag_may_be_unknown_to_the_tagger() -> None:
    written = enriched(tags=(Tag(name="terrier", score=1, label_id=None, source="person"),)).to_bytes()
    read = read_output(written)
    assert isinstance(read, EnrichedImage)
    assert (read.tags[0].label_id, json.loads(written)["tags"][0]["label_id"]) == (None, None)
    with pytest.raises(ValidationError, match="label_id"):
        Tag(name="terrier", score=1, label_id=None)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.1, 1.1])
def test_a_score_is_a_number_from_0_to_1(score: float) -> None:
    with pytest.raises(ValidationError):
        Tag(name="a", score=score, label_id=0)


@pytest.mark.parametrize("score", [float("nan"), float("-inf")])
def test_a_caption_whose_score_is_no_number_is_not_written(score: float) -> None:
    with pytest.raises(ValidationError):
        CaptionText(text="a dog", score=score, method="beam")


def test_the_retraction_of_a_version_names_it() -> None:
    with pytest.raises(ValidationError, match="names it"):
        retraction(scope="version", source=GoneSource(bucket="photos", key="a.jpg"))


def test_an_output_can_not_be_changed() -> None:
    with pytest.raises(ValidationError):
        enriched().id = "other"


def test_outputs_of_one_object_share_their_record_key() -> None:
    assert enriched().message_key == retraction().message_key == skip().message_key == b"photos/a.jpg"


def test_the_retraction_of_a_version_can_not_compact_the_live_image_away() -> None:
    assert retraction(scope="version").message_key == b"photos?versionId=v1/a.jpg"


short_keys = keys.map(lambda key: key[:60])
versions = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=9)


@patient
@given(short_keys, short_keys, versions, versions)
def test_the_record_key_of_a_versions_retraction_is_no_other_outputs(
    key: str, other: str, version: str, other_version: str
) -> None:
    def record_key(key: str, version: str | None = None) -> bytes:
        source = GoneSource(bucket="photos", key=key, version_id=version)
        scope = "object" if version is None else "version"
        return retraction(scope=scope, subject=f"photos/{key}", source=source).message_key

    objects = {record_key(name) for name in (f"{key}?versionId={version}", f"?versionId={version}/{key}", key, other)}
    removed = {(key, version), (other, version), (key, other_version), (other, f"{version}/{key}")}
    removed_keys = {record_key(*one) for one in removed}
    assert len(removed_keys) == len(removed)
    assert removed_keys.isdisjoint(objects)


def test_a_skip_without_an_object_is_keyed_by_its_coordinates() -> None:
    assert skip(subject=None).message_key == b"images:3:17:0"


@patient
@given(keys)
def test_any_key_makes_a_record_key_and_comes_back(key: str) -> None:
    if len(key.encode()) <= 1024:
        gone = retraction(subject=f"photos/{key}", source=GoneSource(bucket="photos", key=key))
        assert gone.message_key == b"photos/" + key.encode()
        assert read_output(gone.to_bytes()) == gone
