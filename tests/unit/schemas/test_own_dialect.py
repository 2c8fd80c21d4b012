"""`image-event/1`, the own dialect."""

import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.image_event import ImageEvent, Options
from scripts.messages.publish import documents
from tests.unit.schemas.documents import event, fault, json_values, keys, own, parse, patient


def test_every_field_is_read() -> None:
    read = event(
        own(
            version_id="v1",
            etag='"abc"',
            size=12,
            sequencer="0A",
            event_time="2026-01-02T03:04:05+01:00",
            options={"want": ["caption"], "guide_tags": ["dog", "snow"], "profile": "strict"},
        )
    )
    assert read == ImageEvent(
        id="evt-1",
        dialect="own",
        action="enrich",
        index=0,
        bucket="photos",
        key="a.jpg",
        version_id="v1",
        etag="abc",
        size=12,
        sequencer="0A",
        event_time="2026-01-02T03:04:05+01:00",
        options=Options(want=("caption",), guide_tags=("dog", "snow"), profile="strict"),
    )
    assert read.subject == "photos/a.jpg"


def test_names_of_added_kinds_may_be_wanted_and_come_after_todays() -> None:
    options = event(own(options={"want": ["zebra", "a-b", "caption", "tags", "embedding", "a-b"]})).options
    assert options.want == ("tags", "embedding", "caption", "a-b", "zebra")
    assert (options.own, options.results) == (("tags", "embedding", "caption"), ("a-b", "zebra"))


NULLS = {"want": None, "guide_tags": None, "profile": None}


@pytest.mark.parametrize("wishes", [None, {}, NULLS, {"want": ["caption", "tags", "caption"]}])
def test_absent_null_and_repeated_wishes_are_for_tags_and_a_caption(wishes: object) -> None:
    usual = Options(want=("tags", "caption"), guide_tags=(), profile=None)
    assert event(own(options=wishes)).options == event(own()).options == Options() == usual


def test_fields_that_are_not_ours_are_ignored() -> None:
    assert event(own(colour="red", options={"want": ["tags"], "later": 1})).options.want == ("tags",)


@patient
@given(keys)
def test_any_key_comes_through(key: str) -> None:
    if len(key.encode()) <= 1024:
        assert event(own(key=key)).key == key


UNFIT_TAGS = ["a\0b", "\x1b[2J", "a\nb", "a\u202eb", "a\u200bb", " dog", "dog ", "", "d" * 101]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"bucket": ""}, "bucket"),
        ({"bucket": "a/b"}, "bucket"),
        ({"bucket": 7}, "bucket"),
        ({"bucket": "ab"}, "bucket"),
        ({"bucket": "a" * 64}, "bucket"),
        ({"bucket": "photos?versionId=1"}, "bucket"),
        ({"bucket": "photos\n"}, "bucket"),
        ({"bucket": "-photos"}, "bucket"),
        ({"bucket": "photös"}, "bucket"),
        ({"key": ""}, "key"),
        ({"key": "a\0b"}, "key"),
        *(({"etag": etag}, "etag") for etag in ("é", "a\n", "a b", "a\x7f", "a\0", '"\t"')),
        *(({"version_id": version}, "version_id") for version in ("é", "a\n", "a b", "\x1b[2J", "v" * 1025)),
        ({"key": "ü" * 513}, "key"),
        ({"id": None}, "id"),
        ({"options": {"want": []}}, "options.want"),
        ({"options": {"want": ["Poem"]}}, "options.want.0"),
        ({"options": {"want": ["p" * 33]}}, "options.want.0"),
        ({"options": {"want": ["poem\n"]}}, "options.want.0"),
        ({"options": {"want": ["tags"] * 17}}, "options.want"),
        ({"options": {"guide_tags": ["x"] * 51}}, "options.guide_tags"),
        *(({"options": {"guide_tags": ["dog", tag]}}, "options.guide_tags.1") for tag in UNFIT_TAGS),
        ({"options": "tags"}, "options"),
    ],
)
def test_a_wrong_field_is_a_schema_fault_that_names_it(fields: dict[str, Any], named: str) -> None:
    bad = fault(own(**fields))
    assert (bad.index, bad.reason) == (0, "schema")
    assert bad.detail.startswith(f"{named}: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("event_time", time) for time in (
            "2026-06-30T23:59:60Z", "2026-06-30T23:59:59z", "2026-06-30 23:59:59+00:00", "2026-06-30T23:59Z",
            "2026-06-30T23:59:59+0000", "2026-06-30T23:59:59", "2026-13-45T00:00:00Z", "yesterday", "", 1_782_864_000,
        )),
        *(("etag", etag) for etag in ("", '""', "a" * 257, 5)),
        *(("size", size) for size in (-1, 1.5, "many", 2**63, "", [1])),
        *(("sequencer", sequencer) for sequencer in ("", "1" * 129, "not hex", 7)),
        ("version_id", ""),
    ],
)  # fmt: skip
def test_an_odd_optional_value_counts_as_absent(field: str, value: object) -> None:
    assert event(own(**{field: value})) == event(own())


@pytest.mark.parametrize("bucket", ["abc", "a" * 63, "My_old.bucket", "tenant:bucket", "1.2.3", "xn--bcher-kva"])
def test_a_bucket_may_be_named_as_any_store_allows(bucket: str) -> None:
    assert event(own(bucket=bucket)).bucket == bucket


def test_the_version_null_is_no_version() -> None:
    assert event(own(version_id="null")).version_id is None
    assert event(own(version_id="nullable")).version_id == "nullable"


def test_a_fault_never_repeats_the_messages_content() -> None:
    assert "secret-value" not in fault(own(etag="secret-value\n", options={"want": ["secret-value"]})).detail


def test_many_faults_are_counted_not_listed() -> None:
    detail = fault({"schema": "image-event/1", "version_id": -1, "etag": "é"}).detail
    assert detail == "id: Field required; bucket: Field required; key: Field required; and 2 more"


def test_a_later_version_is_refused_and_says_so() -> None:
    bad = fault(own(schema="image-event/2"))
    assert bad.reason == "schema"
    assert "image-event/2" in bad.detail


def test_our_own_output_is_no_input() -> None:
    assert fault(own(schema="enriched-image/1")).reason == "not-an-event"


_PUBLISHED = jsonschema.Draft202012Validator(json.loads(documents()["image-event-1.json"]))
_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "version_id": st.none() | st.text("ab", min_size=0, max_size=3) | json_values,
        "etag": st.none() | st.text("ab-", min_size=1, max_size=3) | json_values,
        "size": st.none() | st.integers(-5, 2**64) | json_values,
        "sequencer": st.none() | st.text("0aFg", max_size=4) | json_values,
        "options": st.fixed_dictionaries(
            {},
            optional={
                "want": st.lists(st.sampled_from(["tags", "caption", "poem", "Poem"]), max_size=3) | json_values,
                "guide_tags": st.lists(st.text(max_size=3), max_size=3) | json_values,
                "profile": json_values,
            },
        )
        | json_values,
        "more": json_values,
    },
)


@patient
@given(_FIELDS)
@example({"size": 0.0})
@example({"size": 1e300})
@example({"etag": '"'})
@example({"etag": "é"})
@example({"version_id": "a b"})
def test_the_published_schema_and_the_parser_accept_the_same_except_values_that_count_as_absent(
    fields: dict[str, Any],
) -> None:
    document = own(**fields)
    accepted = isinstance(parse(document)[0], ImageEvent)
    kept = own(**{name: value for name, value in fields.items() if not _counts_as_absent(name, value)})
    if isinstance(kept.get("options"), dict):
        kept["options"] = {name: value for name, value in kept["options"].items() if value is not None}
    assert accepted == (_PUBLISHED.is_valid(kept) and _is_fit(kept)), document
    if _PUBLISHED.is_valid(document) and _is_fit(document):
        assert accepted


def _counts_as_absent(name: str, value: Any) -> bool:
    if name in ("etag", "size", "sequencer"):
        bare = value.strip('"') if isinstance(value, str) else value
        return not _PUBLISHED.is_valid(own(**{name: bare}))
    return (name, value) in (("version_id", ""), ("options", None))


def _is_fit(document: dict[str, Any]) -> bool:
    """Rules that the schema states in words alone: visible ASCII characters, and tags of one line."""
    texts = [document.get("version_id"), document.get("etag")]
    if isinstance(texts[1], str):
        texts[1] = texts[1].strip('"')
    options = document.get("options")
    tags = options.get("guide_tags", []) if isinstance(options, dict) else []
    return all(re.fullmatch("[!-~]+", text) for text in texts if isinstance(text, str)) and all(
        tag.isprintable() and tag.strip() == tag for tag in tags if isinstance(tag, str)
    )
