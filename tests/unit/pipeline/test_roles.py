"""Roles: what is wanted of an image, in which order, and which images share one computation."""

from typing import Any

import pytest
from opentelemetry.trace import INVALID_SPAN

from schemas.image_event import ImageEvent
from schemas.options import Options
from tests.unit.pipeline.harness import ChoosyTagger, EchoCaptioner
from workers.pipeline.commit.ledger import Entry
from workers.pipeline.profiles import read_profiles
from workers.pipeline.roles import OPTION_RULES, Roles, make_roles
from workers.pipeline.task import Task
from workers.types import Assignment, Caption, Coordinates, Facts, Job, Partition, Record

FACTS = Facts("a" * 64, "etag", None, "2026-01-01T00:00:00Z", 100, "png", 8, 8, 1000)
TAGGER = ChoosyTagger()
BOTH = make_roles({"tagger": TAGGER, "captioner": EchoCaptioner()})
TAGS_ALONE = make_roles({"tagger": TAGGER}, lambda names: Caption(" ".join(names), None, "template"))
PROFILES = read_profiles(TAGGER, {"reds": {"only": ["red"]}, "strict": {"all": 0.9}})


def a_task(**options: Any) -> Task:
    assignment = Assignment(Partition("images", 0), "member")
    asked = Options(**options)
    event = ImageEvent(id="1", dialect="own", action="enrich", index=0, bucket="photos", key="a.png", options=asked)
    record = Record(assignment.partition, 0, 0, None, b"{}", (), assignment)
    job = Job(Coordinates("images", 0, 0, 0), assignment, event)
    return Task(job, Entry(record, 0.0), PROFILES[asked.profile or "default"], INVALID_SPAN, facts=FACTS)


def wanted(roles: Roles, **options: Any) -> list[str]:
    return [role.name for role in roles.wanted(Options(**options))]


def test_a_role_is_wanted_where_it_or_what_is_made_of_it_was_asked_for() -> None:
    assert wanted(BOTH) == ["tags", "caption"]
    assert wanted(BOTH, want=["tags"]) == ["tags"]
    assert wanted(BOTH, want=["caption"]) == ["tags", "caption"]
    assert wanted(BOTH, want=["caption"], guide_tags=["red"]) == ["caption"]
    assert wanted(TAGS_ALONE, want=["caption"]) == ["tags"]
    assert wanted(TAGS_ALONE, want=["caption"], guide_tags=["red"]) == []
    assert wanted(make_roles({"captioner": EchoCaptioner()})) == ["caption"]


def test_what_has_an_answer_or_a_result_is_not_missing() -> None:
    task = a_task()
    assert [role.name for role in BOTH.missing(task)] == ["tags", "caption"]
    task.answers["tags"] = [0.5, 0.5, 0.5]
    task.results["caption"] = Caption("red", None, "echo")
    assert BOTH.missing(task) == ()


def test_every_option_has_a_rule() -> None:
    assert set(OPTION_RULES) == set(Options.model_fields)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ({}, {}, True),
        ({}, {"want": ["tags"]}, False),
        ({}, {"guide_tags": ["red"]}, False),
        ({"want": ["tags"]}, {"want": ["tags"], "guide_tags": ["red"]}, True),
        ({"want": ["tags"]}, {"want": ["tags"], "profile": "strict"}, True),
        ({"want": ["tags"]}, {"want": ["tags"], "profile": "reds"}, False),
        ({}, {"profile": "strict"}, False),
        ({"guide_tags": ["red"]}, {"guide_tags": ["red"], "profile": "strict"}, True),
        ({"guide_tags": ["red"]}, {"guide_tags": ["red"], "profile": "reds"}, False),
        (
            {"want": ["caption"], "guide_tags": ["red"]},
            {"want": ["caption"], "guide_tags": ["red"], "profile": "reds"},
            True,
        ),
    ],
)
def test_images_in_flight_are_equal_exactly_where_one_result_is_the_others(
    one: dict[str, Any], other: dict[str, Any], shared: bool
) -> None:
    assert (BOTH.flight_key(a_task(**one)) == BOTH.flight_key(a_task(**other))) is shared
