"""Outputs: their fields, their id, and the number that orders the outcomes of an object."""

import hashlib
import json
from datetime import UTC, datetime
from functools import reduce
from itertools import permutations
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.dialects.words import UnreadableDocument, document
from schemas.enriched_image import (
    AddedResult,
    CorrectedTags,
    EnrichedImage,
    EventRef,
    GoneSource,
    Models,
    Retraction,
    Skip,
    Tag,
    Thresholds,
    enriched_id,
    output_of,
    read_output,
)
from schemas.options import Options
from schemas.text import VERSION_MAX
from schemas.version import AHEAD_MAX_US, order, version_of
from tests.unit.schemas.documents import (
    CAPTIONER,
    DATA,
    EVENT,
    TAGGER,
    VERSION,
    enriched,
    keys,
    patient,
    retraction,
    skip,
)

OUTPUTS = [
    enriched(),
    enriched(status="partial", reason="caption-failed", caption=None),
    retraction(),
    retraction(scope="version"),
    skip(),
    skip(subject=None, reason="test-event"),
]


def test_an_enriched_image_on_the_wire() -> None:
    assert json.loads(enriched().to_bytes()) == json.loads((DATA / "enriched_image.json").read_text())


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


def test_messages_from_before_versions_can_be_read() -> None:
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


@pytest.mark.parametrize(
    "output", [enriched(status="partial", reason="caption-failed", caption=None), skip()], ids=["image", "skip"]
)
def test_a_reader_keeps_an_unknown_reason_as_text(output: EnrichedImage | Skip) -> None:
    later = output.to_bytes().replace(b'"reason":"' + str(output.reason).encode(), b'"reason":"a-later-one')
    read = read_output(later)
    assert isinstance(read, EnrichedImage | Skip)
    assert str(read.reason) == "a-later-one"
    assert read.to_bytes() == later, "it can be passed on"
    for no_reason in (b"A later one", b"x" * 65, b"\\u001b[2J"):
        with pytest.raises(ValueError, match="reason"):
            read_output(later.replace(b"a-later-one", no_reason))
    with pytest.raises(ValidationError):
        output.model_validate(output.model_dump() | {"reason": "a-later-one"})


FACTS: dict[str, Any] = {
    "taken_at": "2026-05-03T17:04:05+02:00",
    "orientation": 6,
    "phash": "0123456789abcdef",
    "thumbhash": "3OcRJYB4d3h/iIeHeEh3eIhw+j2w",
    "place": {"latitude": 52.52, "longitude": -13.4},
    "facts_missing": "exif-broken",
}


def with_facts(**facts: Any) -> EnrichedImage:
    return enriched(image={"format": "jpeg", "width": 640, "height": 480, "bytes": 12345, **facts})


def test_facts_of_a_picture_are_written_and_read_and_absent_ones_are_no_fields() -> None:
    read = read_output(with_facts(**FACTS).to_bytes())
    assert isinstance(read, EnrichedImage)
    assert read == with_facts(**FACTS)
    assert {name: json.loads(read.to_bytes())["image"][name] for name in FACTS} == FACTS
    assert read.id == enriched().id, "they are no part of what an outcome is known by"
    assert not FACTS.keys() & json.loads(enriched().to_bytes())["image"].keys()
    later = read_output(with_facts(**FACTS).to_bytes().replace(b"exif-broken", b"exif-too-late"))
    assert isinstance(later, EnrichedImage)
    assert str(later.image.facts_missing) == "exif-too-late"


def test_a_rendition_is_written_and_read_and_is_no_field_where_none_was() -> None:
    plain = json.loads(enriched().to_bytes())
    assert ("read" in plain["source"], "of" in plain["image"]) == (False, False)
    place = {"bucket": "photos-web", "key": "a.jpg", "width": 64, "height": 48}
    told = plain | {"source": plain["source"] | {"read": place}, "image": plain["image"] | {"of": "rendition"}}
    read = read_output(json.dumps(told).encode())
    assert isinstance(read, EnrichedImage)
    assert json.loads(read.to_bytes()) == told
    assert read.id == enriched().id, "what was read is no part of what an outcome is known by"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("taken_at", ["1826-01-01T00:00:00", "2100-12-31T23:59:59Z", "2024-02-29T12:00:00-11:30"]),
        ("thumbhash", ["A" * 40, "AAAAAAA="]),
        ("place", [{"latitude": -90.0, "longitude": 180.0}]),
    ],
)
def test_a_fact_at_its_bound_is_valid(name: str, values: list[Any]) -> None:
    for value in values:
        assert json.loads(with_facts(**{name: value}).to_bytes())["image"][name] == value


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("taken_at", ["1825-12-31T23:59:59", "2101-01-01T00:00:00", "2026-02-30T00:00:00", "2026-05-03", "now", 5]),
        ("taken_at", ["2026-05-03T17:04:05+02:00\n", "2026-05-03T17:04:05.5", "0000-00-00T00:00:00"]),
        ("orientation", [0, 9, "6", 1.0, True]),
        ("phash", ["0123456789ABCDEF", "0123456789abcde", "0123456789abcdef0", "0123456789abcdef\n"]),
        ("thumbhash", ["A" * 44, "", "AAA", "AAAAA===", "<script>"]),
        ("place", [{"latitude": 90.1, "longitude": 0.0}, {"latitude": 0.0, "longitude": float("nan")}, [0.0, 0.0]]),
        ("facts_missing", ["", "Why?", "exif-too-late"]),
    ],
)
def test_a_fact_beyond_its_bound_is_not_written(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValidationError, match=name):
            with_facts(**{name: value})


SERVICE: dict[str, Any] = {"model": "Qwen3-VL-8B", "usage": {"prompt": 812, "completion": 31}}
MISSING: list[Any] = [{"want": "caption", "reason": "caption-budget"}, {"want": None, "reason": "role-not-here"}]


def test_a_services_caption_and_all_missing_results_are_written_and_read() -> None:
    told = {"text": "a dog", "score": None, "method": "remote", "guided_by": [], **SERVICE}
    partial = enriched(status="partial", reason="caption-budget", caption=told, missing=MISSING)
    written = json.loads(partial.to_bytes())
    assert (written["caption"], written["missing"]) == (told, MISSING)
    assert read_output(partial.to_bytes()) == partial
    later = read_output(partial.to_bytes().replace(b"role-not-here", b"a-later-one"))
    assert isinstance(later, EnrichedImage)
    assert str((later.missing or ())[1].reason) == "a-later-one"


@pytest.mark.parametrize("told", [{"model": "m" * 257}, {"usage": {"prompt": -1, "completion": 0}}])
def test_what_no_service_can_have_told_is_not_written(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(told))):
        enriched(caption={"text": "a dog", "method": "remote", **told})


RESULTS: dict[str, Any] = {"ocr": {"model": TAGGER, "cache": "hit", "value": {"text": "a", "lines": [{"score": 0.5}]}}}


def test_results_of_added_kinds_are_written_and_read_whatever_their_values_are() -> None:
    options = {"want": ("tags",), "results": ("ocr",)}
    written = enriched(results=RESULTS, options=options)
    assert read_output(written.to_bytes()) == written
    assert json.loads(written.to_bytes())["results"]["ocr"]["value"] == RESULTS["ocr"]["value"]
    assert not {"results", "options"} & json.loads(enriched().to_bytes()).keys()


@pytest.mark.parametrize("name", ["", "OCR", "a" * 33, "ocr\n"])
def test_a_result_has_the_name_of_a_kind(name: str) -> None:
    with pytest.raises(ValidationError, match="a result's name"):
        enriched(results={name: RESULTS["ocr"]})


@pytest.mark.parametrize(
    "value",
    [
        {"a": [float("nan")]},
        {"a": float("-inf")},
        {"a": "\ud800"},
        json.loads('{"a":' * 250 + "{}" + "}" * 250),
        orjson.loads('{"a":' * 1_000 + "{}" + "}" * 1_000),
        [],
        "text",
        None,
    ],
    ids=["nan", "infinity", "surrogate", "deep", "deeper", "list", "text", "null"],
)
def test_a_result_is_a_json_object(value: Any) -> None:
    with pytest.raises(ValidationError):
        AddedResult(model=TAGGER, value=value)


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b'{"schema": "enriched-image/9"}', b'{"schema": "skipped/1"}'])
def test_a_reader_refuses_foreign_messages(value: bytes) -> None:
    with pytest.raises(ValidationError):
        read_output(value)


NUMBERS = ["version", "event.partition", "event.offset", "event.index", "image.width", "image.height", "image.bytes"]


@pytest.mark.parametrize("value", ["5", "1e3", 1e3, True], ids=repr)
@pytest.mark.parametrize("path", [*NUMBERS, "tags.0.label_id", "embedding.dimensions"])
def test_a_whole_number_is_neither_text_nor_a_fraction_in_any_form(path: str, value: object) -> None:
    embedding = {"space": "s", "dimensions": 1, "data": "AAA=", "model": "m"}
    outcome = json.loads(enriched(embedding=embedding).to_bytes())
    read_output(json.dumps(outcome).encode())
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    reduce(lambda place, step: place[step], steps, outcome)[last] = value
    with pytest.raises(ValidationError, match="valid integer"):
        read_output(json.dumps(outcome).encode())
    with pytest.raises(ValidationError, match="valid integer"):
        output_of(outcome)


@pytest.mark.parametrize(
    "fields",
    [
        {"mood": "sunny"},
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
        {"embedding": {"space": "s", "dimensions": 2, "data": "AAA=", "model": "m"}},
        {"caption": {"text": "a dog", "score": float("nan"), "method": "beam"}},
        {"caption": {"text": "a dog", "score": float("-inf"), "method": "beam"}},
    ],
)
def test_what_contradicts_itself_or_the_schema_is_not_written(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        enriched(**fields)


def test_only_a_persons_tag_may_be_unknown_to_the_tagger() -> None:
    written = enriched(tags=(Tag(name="terrier", score=1, label_id=None, source="person"),)).to_bytes()
    read = read_output(written)
    assert isinstance(read, EnrichedImage)
    assert (read.tags[0].label_id, json.loads(written)["tags"][0]["label_id"]) == (None, None)
    with pytest.raises(ValidationError, match="label_id"):
        Tag(name="terrier", score=1, label_id=None)


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-23:00", "0001-01-01T00:00:00+23:00", "2026-02-30T00:00:00Z"])
def test_an_impossible_moment_in_utc_is_refused_without_repeating_it(moment: str) -> None:
    with pytest.raises(ValidationError, match="the years 1 to 9999 in UTC") as refused:
        read_output(enriched().to_bytes().replace(b"2026-11-24T23:46:32Z", moment.encode()))
    assert moment not in refused.value.errors()[0]["msg"]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.1, 1.1])
def test_a_score_is_a_number_from_0_to_1(score: float) -> None:
    with pytest.raises(ValidationError):
        Tag(name="a", score=score, label_id=0)


def test_the_retraction_of_a_version_names_it() -> None:
    with pytest.raises(ValidationError, match="names it"):
        retraction(scope="version", source=GoneSource(bucket="photos", key="a.jpg"))


def test_an_output_can_not_be_changed() -> None:
    with pytest.raises(ValidationError):
        enriched().id = "other"


def test_outputs_of_one_object_share_their_record_key() -> None:
    assert enriched().message_key == retraction().message_key == skip().message_key == b"photos/a.jpg"
    assert skip(subject=None).message_key == b"images:3:17:0", "without an object it is its coordinates"


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


@patient
@given(keys)
def test_any_key_makes_a_record_key_and_comes_back(key: str) -> None:
    if len(key.encode()) <= 1024:
        gone = retraction(subject=f"photos/{key}", source=GoneSource(bucket="photos", key=key))
        assert gone.message_key == b"photos/" + key.encode()
        assert read_output(gone.to_bytes()) == gone


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


def test_results_of_added_kinds_are_one_more_element_before_the_corrections() -> None:
    written = (
        '["enriched-image/1","photos","a.jpg",["etag","abc"],["sequencer","0A"],'
        f'["{"c" * 64}",null,"t1"],[["tags"],[],null],"complete",["results",["faces","ocr"],[null,"{"f" * 64}"]],'
        '["corrections",["dog"],[]]]'
    )
    made = identify(
        models=Models(tagger=TAGGER),
        options=Options(want=("ocr", "tags", "faces")),
        results={"ocr": "f" * 64},
        corrections=CorrectedTags(added=("dog",)),
    )
    assert made == hashlib.sha256(written.encode()).hexdigest()
    assert identify(results={"ocr": "f" * 64}) == identify(), "what is not wanted does not count"


def test_a_new_upload_of_the_same_bytes_has_another_id() -> None:
    assert identify(sequencer="0B") != identify(sequencer="0A")
    assert identify(sequencer=None, event_id="evt-2") != identify(sequencer=None, event_id="evt-1")


def test_what_another_word_stands_in_for_does_not_count() -> None:
    assert identify(event_id="evt-2") == identify()
    assert identify(version_id="v1", etag="def") == identify(version_id="v1")


def test_the_precision_is_not_part_of_the_id() -> None:
    other = Models(tagger=TAGGER.model_copy(update={"precision": "int8"}), captioner=CAPTIONER)
    assert identify(models=other) == identify()


_any_text = st.text(st.characters(exclude_categories=["Cs"]))


@patient
@given(_any_text, _any_text, st.lists(_any_text, max_size=3))
def test_the_encoding_equals_that_of_any_writer_of_canonical_json(key: str, etag: str, guide: list[str]) -> None:
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
    """Unreachable: neither JSON in UTF-8 nor an event's model allows it."""
    with pytest.raises(ValueError, match="surrogates"):
        identify(key="\ud800")
    with pytest.raises(UnreadableDocument):
        document(b'{"key": "\\ud800"}')


NOW_S = 1_800_000_000.0
NOW = 1_800_000_000_000_000
SECOND = 1_000_000


def at(seconds: float) -> str:
    return datetime.fromtimestamp(NOW_S + seconds, UTC).isoformat(timespec="milliseconds")


def version(time: str | None = None, timestamp_ms: int = 0, **answer: Any) -> int:
    return version_of(time, timestamp_ms=timestamp_ms, now_s=NOW_S, **answer)


@pytest.mark.parametrize(
    ("time", "modified", "date", "expected"),
    [
        (-10, -20, None, -10),
        (-20, -10, None, -10),
        (-20, -10, -5, -5),
        (-5, -20, -6, -5),
        (-20, None, -7, -7),
        (-20, None, None, -20),
        (None, -9, None, -9),
        (-20, 100, -10, -10),  # modified counts up to the date
        (300, -20, -10, 300),
        (301, -20, -10, -10),  # too far ahead
        (301, -20, None, -20),
        (-20, 301, None, -20),
        (900, -20, 1000, 1000),  # our clock is wrong
        (1300, -20, 1000, 1300),
        (1301, -20, 1000, 1000),
    ],
)
def test_it_is_the_latest_moment_at_which_the_state_certainly_held(
    time: float | None, modified: float | None, date: float | None, expected: float
) -> None:
    said = [None if each is None else at(each) for each in (time, modified, date)]
    assert version(said[0], last_modified=said[1], date=said[2]) == NOW + expected * SECOND


@pytest.mark.parametrize(
    ("timestamp_ms", "expected"), [(NOW // 1000 - 7, NOW - 7000), (NOW // 1000 + 7, NOW), (-1, 0), (2**63 - 1, NOW)]
)
@pytest.mark.parametrize("time", [None, at(301), "1969-12-31T23:59:59Z", "2026-06-30T23:59:60Z", "yesterday"])
def test_where_no_moment_is_known_it_is_the_records_time_and_at_most_now(
    time: str | None, timestamp_ms: int, expected: int
) -> None:
    assert version(time, timestamp_ms) == expected


def test_fractions_of_a_second_and_offsets_count() -> None:
    assert version("2026-11-24T23:46:32.646123999Z") % SECOND == 646_123
    assert version("2026-11-25T00:46:32.5+01:00") == version("2026-11-24T23:46:32.500Z")


anything = st.none() | st.datetimes(timezones=st.timezones()).map(datetime.isoformat) | st.text(max_size=30)


@given(anything, anything, anything, st.integers(-(2**63), 2**63 - 1), st.floats(-1e9, 1e13))
def test_it_is_a_number_that_any_reader_can_hold(
    time: str | None, modified: str | None, date: str | None, timestamp_ms: int, now_s: float
) -> None:
    found = version_of(time, last_modified=modified, date=date, timestamp_ms=timestamp_ms, now_s=now_s)
    assert 0 <= found <= VERSION_MAX < 2**53
    assert AHEAD_MAX_US == 300 * SECOND


def _assert_in_order(*outputs: EnrichedImage | Retraction) -> None:
    for some in permutations(outputs):
        assert sorted(some, key=order) == list(outputs)


def _image(version: int | None, produced_at: str = "2026-01-01T00:00:00Z") -> EnrichedImage:
    return enriched(version=version, produced_at=produced_at)


def _gone(version: int | None, produced_at: str = "2026-01-01T00:00:00Z", time: str | None = None) -> Retraction:
    event = EventRef.model_validate(EVENT.model_dump() | {"time": time})
    return retraction(version=version, produced_at=produced_at, event=event)


def test_the_version_alone_orders_outputs_and_a_tie_is_the_later_opinion_then_the_retraction() -> None:
    _assert_in_order(_image(4), _gone(5), _image(6))
    _assert_in_order(_gone(5, "2026-01-01T00:00:00.1Z"), _image(5, "2026-01-01T01:00:00.2+01:00"))
    _assert_in_order(_image(5), _gone(5))


def test_without_a_version_it_is_the_time_of_the_change_and_any_version_as_great_wins() -> None:
    modified = 1_795_563_992_000_000
    _assert_in_order(_image(modified - 1), _image(None, "2030-01-01T00:00:00Z"), _image(modified))
    _assert_in_order(_gone(None, time="2026-11-24T23:46:31Z"), _image(None), _gone(None, time="2026-11-24T23:46:33Z"))
    _assert_in_order(_image(None), _gone(None, produced_at="2026-12-01T00:00:00Z"))
