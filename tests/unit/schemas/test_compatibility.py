"""Changes of the schemas that would break readers or writers."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.messages.compatibility import breaking_changes, breaks_consumers, breaks_producers
from scripts.messages.publish import DIRECTIONS, documents
from tests.unit.schemas.documents import DATA, patient

RELEASED = {path.name: path.read_bytes() for path in (DATA / "released").glob("*.json")}
DOCUMENTS = documents()

Change = Callable[[dict[str, Any]], object]


def changed(name: str, change: Change) -> list[str]:
    schema = json.loads(DOCUMENTS[name])
    change(schema)
    return breaking_changes(DOCUMENTS, DOCUMENTS | {name: json.dumps(schema).encode()}, DIRECTIONS)


def test_no_change_breaks_readers_or_writers_of_the_last_release() -> None:
    """`data/released` has the schemas of the last release; it changes only with a release."""
    assert set(RELEASED) == set(DIRECTIONS)
    assert breaking_changes(RELEASED, DOCUMENTS, DIRECTIONS) == []


def test_a_schema_that_is_gone_breaks() -> None:
    rest = {name: content for name, content in DOCUMENTS.items() if name != "skipped-1.json"}
    assert breaking_changes(DOCUMENTS, rest, DIRECTIONS) == ["skipped-1.json: no longer published"]


def test_a_new_reason_breaks_no_reader_and_a_new_status_does() -> None:
    assert changed("skipped-1.json", lambda s: s["properties"]["reason"]["enum"].append("not-today")) == []
    assert changed(DEAD, lambda s: _failure(s)["properties"]["reason"]["enum"].append("not-today")) == []
    (said,) = changed(ENRICHED, lambda s: s["properties"]["status"]["enum"].append("doubtful"))
    assert "doubtful" in said


ENRICHED, EVENT, DEAD = "enriched-image-1.json", "image-event-1.json", "dead-letter-1.json"


def _failure(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema["properties"]["tagstream-failures"]["contentSchema"]["items"]
    return found


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (ENRICHED, lambda s: s["properties"].pop("id") and s["required"].remove("id"), "$.id may be missing"),
        (ENRICHED, lambda s: s["required"].remove("tags"), "$.tags may be missing"),
        (ENRICHED, lambda s: s["$defs"]["Tag"]["properties"].pop("translations"), "$.tags[].translations is no longer"),
        (ENRICHED, lambda s: s["properties"]["id"].update(type="integer"), "$.id may be integer, not only string"),
        (ENRICHED, lambda s: s["properties"]["schema"].update(const="enriched-image/2"), '$.schema may be "enriched-'),
        (ENRICHED, lambda s: s["properties"]["status"]["enum"].append("late"), '$.status may be "late", not only'),
        (ENRICHED, lambda s: s["properties"]["status"].pop("enum"), "$.status may be anything, not only"),
        (ENRICHED, lambda s: s["$defs"]["Source"]["properties"]["sha256"].pop("pattern"), "$.source.sha256 need not"),
        (ENRICHED, lambda s: s["$defs"]["Tag"]["properties"]["score"].update(maximum=100), "$.tags[].score may be out"),
        (ENRICHED, lambda s: s["$defs"]["EventRef"]["properties"]["index"].pop("minimum"), "$.event.index may be out"),
        (
            ENRICHED,
            lambda s: s["$defs"]["Source"]["properties"].update(etag={"anyOf": [{"type": "string"}, {"type": "null"}]}),
            "$.source.etag may be null, not only string",
        ),
        (ENRICHED, lambda s: s["properties"]["tags"].pop("items"), "$.tags[] may be anything, not only object"),
        (
            ENRICHED,
            lambda s: s["properties"]["timings_ms"].update(additionalProperties={"type": "string"}),
            "$.timings_ms.* may be string, not only number",
        ),
        (DEAD, lambda s: _failure(s)["properties"]["stage"]["enum"].append("bad-luck"), "stage may be"),
        (DEAD, lambda s: s["properties"].pop("tagstream-offset"), "$.tagstream-offset is no longer sent"),
        (EVENT, lambda s: s["required"].append("etag"), "$.etag may be missing"),
        (EVENT, lambda s: s["properties"].pop("etag"), "$.etag is ignored now"),
        (EVENT, lambda s: s["$defs"]["Options"]["properties"].pop("profile"), "$.options.profile is ignored now"),
        (EVENT, lambda s: s["properties"]["key"].update(maxLength=100), "$.key may be outside maxLength 100"),
        (EVENT, lambda s: s["properties"]["bucket"].update(pattern="^[a-z]+$"), "$.bucket need not have the pattern"),
        (EVENT, lambda s: s["properties"]["size"]["anyOf"].pop(), "$.size may be null, not only integer"),
        (EVENT, lambda s: s.update(additionalProperties=False, properties={}), "$.bucket is ignored now"),
        (
            EVENT,
            lambda s: s["$defs"]["Options"]["properties"]["want"]["items"].update(enum=["tags"]),
            "$.options.want[] may be anything, not only",
        ),
        (
            EVENT,
            lambda s: s["$defs"]["Options"]["properties"]["want"].update(default=["tags"]),
            '$.options.want, when absent, meant ["tags", "caption"] and means ["tags"] now',
        ),
    ],
)
def test_a_breaking_change_is_found_and_named(name: str, change: Change, says: str) -> None:
    found = changed(name, change)
    assert found
    assert all(line.startswith(f"{name}: $") for line in found)
    assert any(says in line for line in found), found


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (ENRICHED, lambda s: s["properties"].update(mood={"type": "string"})),
        (ENRICHED, lambda s: s["properties"].update(mood={"type": "string"}) or s["required"].append("mood")),
        (ENRICHED, lambda s: s["properties"]["status"].update(enum=["complete"])),
        (ENRICHED, lambda s: s["properties"]["status"].update(description="Other words.")),
        (ENRICHED, lambda s: s["$defs"]["Tag"]["properties"]["score"].update(maximum=0.5)),
        (ENRICHED, lambda s: s["$defs"]["Tag"]["properties"]["score"].update(type="integer")),
        (ENRICHED, lambda s: s["$defs"]["Tag"]["required"].append("translations")),
        (ENRICHED, lambda s: s["properties"].update(caption={"$ref": "#/$defs/CaptionText"})),
        (EVENT, lambda s: s["properties"].update(urgency={"type": "integer", "default": 0})),
        (EVENT, lambda s: s["required"].remove("id")),
        (EVENT, lambda s: s["properties"]["bucket"].pop("pattern")),
        (EVENT, lambda s: s["properties"]["key"].update(maxLength=4096)),
        (EVENT, lambda s: s["$defs"]["Options"]["properties"]["want"]["items"].pop("pattern")),
    ],
)
def test_a_harmless_change_breaks_no_reader(name: str, change: Change) -> None:
    assert changed(name, change) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ({"type": "integer", "minimum": 0}, {"type": "integer", "const": -1}, ["$ may be outside minimum 0"]),
        ({"type": "integer", "minimum": 0}, {"type": "integer", "const": 0}, []),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "integer", "exclusiveMinimum": 0}, []),
        (
            {"type": "string", "maxLength": 2},
            {"type": "string", "enum": ["a", "abc"]},
            ["$ may be outside maxLength 2"],
        ),
        ({"type": "string", "maxLength": 3}, {"type": "string", "enum": ["a", "abc"]}, []),
        ({"type": "string", "pattern": "^a"}, {"type": "string", "enum": ["a", "abc"]}, []),
        (
            {"type": "string", "pattern": "^a$"},
            {"type": "string", "enum": ["a", "abc"]},
            ["$ need not have the pattern ^a$"],
        ),
    ],
)
def test_values_are_compared_with_bounds_one_by_one(old: dict[str, Any], new: dict[str, Any], says: list[str]) -> None:
    assert breaks_consumers(old, new) == says


def test_a_new_field_breaks_consumers_of_a_closed_schema() -> None:
    old = {"type": "object", "properties": {}, "additionalProperties": False}
    new = {"type": "object", "properties": {"mood": {"type": "string"}}}
    assert breaks_consumers(old, new) == ["$.mood is not allowed, as no field is that the schema does not name"]


def test_a_keyword_that_is_not_understood_is_no_answer() -> None:
    with pytest.raises(ValueError, match="not"):
        breaks_consumers({"type": "string"}, {"not": {"type": "integer"}})


_leaf = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 1},
        {"type": "string", "enum": ["a", "b"]},
        {"const": "a", "type": "string"},
        {"type": "integer", "minimum": 0},
        {"type": "number"},
        {"type": "null"},
    ]
)
_schemas = st.recursive(
    _leaf,
    lambda inner: (
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(lambda items: {"type": "array", "items": items}, inner)
        | st.builds(
            lambda fields, required: {
                "type": "object",
                "properties": fields,
                "required": sorted(name for name in fields if name in required),
            },
            st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
            st.sets(st.sampled_from("xyz")),
        )
    ),
    max_leaves=6,
)


@patient
@given(_schemas)
def test_no_schema_breaks_itself(schema: dict[str, Any]) -> None:
    assert breaks_consumers(schema, copy.deepcopy(schema)) == []
    assert breaks_producers(schema, copy.deepcopy(schema)) == []


@patient
@given(_schemas, _schemas)
def test_one_more_alternative_breaks_consumers_and_never_producers(
    schema: dict[str, Any], more: dict[str, Any]
) -> None:
    wider = {"anyOf": [schema, more]}
    assert breaks_producers(schema, wider) == []
    assert breaks_consumers(wider, schema) == []
