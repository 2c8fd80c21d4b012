"""Roles: the wanted results of an image, their order, and which images share one computation."""

from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest

from schemas.enriched_image import Models, Thresholds, enriched_id
from schemas.options import WANTS, Options
from tests.support.harness import ChoosyTagger, EchoCaptioner
from tests.support.kinds import BrightnessKind, BrightnessModel
from tests.support.tasks import TAGGER, an_attempt, annotation
from tests.unit.pipeline.test_kinds import ColourEmbedder
from workers.pipeline.annotation import Annotation, OptionRule, changes_nothing, option_parts
from workers.pipeline.kind_role import KindRole
from workers.pipeline.roles import KeptRole, ModelRole, Roles, make_roles
from workers.types import Caption, Pixels, Transform


class ChoosyEmbedder(ColourEmbedder, ChoosyTagger):
    pass


BOTH = make_roles({"tagger": TAGGER, "captioner": EchoCaptioner()})
TAGS_ALONE = make_roles({"tagger": TAGGER}, lambda names: Caption(" ".join(names), None, "template"))
ADDED = KindRole(BrightnessKind(), BrightnessModel())
ALL = make_roles({"tagger": ChoosyEmbedder(), "captioner": EchoCaptioner()}, added=[ADDED])


def wanted(roles: Roles, **options: Any) -> list[str]:
    return [role.name for role in roles.wanted(Options(**options))]


def test_a_role_is_wanted_if_an_event_wants_it_or_a_result_made_from_it() -> None:
    assert wanted(BOTH) == ["tags", "caption"]
    assert wanted(BOTH, want=["tags"]) == ["tags"]
    assert wanted(BOTH, want=["caption"]) == ["tags", "caption"]
    assert wanted(BOTH, want=["caption"], guide_tags=["red"]) == ["caption"]
    assert wanted(TAGS_ALONE, want=["caption"]) == ["tags"]
    assert wanted(TAGS_ALONE, want=["caption"], guide_tags=["red"]) == []
    assert wanted(make_roles({"captioner": EchoCaptioner()})) == ["caption"]


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
    assert (BOTH.flight_key(annotation(**one)) == BOTH.flight_key(annotation(**other))) is shared


VALUES: dict[str, tuple[Any, ...]] = {
    "want": (*([want] for want in (*WANTS, ADDED.name)), [*WANTS, ADDED.name]),
    "guide_tags": ([], ["red"], ["red", "green"], ["blue"]),
    "profile": (None, "reds", "strict", "paper"),
}
"""By field of `Options`: values such that any two may want different results."""


def the_asked() -> list[Annotation]:
    """The annotation for each combination of `VALUES`, of the same yellow image, computed as the device does it."""
    images: dict[Transform, Pixels] = {
        Transform(side): np.full((side, side, 3), (220, 160, 0), np.uint8) for side in (8, 6, 4)
    }
    attempts = [an_attempt(images, **dict(zip(VALUES, values, strict=True))) for values in product(*VALUES.values())]
    for attempt in attempts:
        for role in ALL.missing(attempt.annotation):
            attempt.annotation.results[role.name] = role.finish(role.run([attempt])[0])
    return [attempt.annotation for attempt in attempts]


ASKED = the_asked()


def rendered(role: KeptRole, task: Annotation, result: Any) -> Any:
    before, task.results[role.name] = task.results[role.name], result
    try:
        return role.render(task)
    finally:
        task.results[role.name] = before


def pairs() -> Iterator[tuple[ModelRole, Annotation, Annotation]]:
    for one, other in combinations(ASKED, 2):
        for role in ALL.models:
            if role.name in one.results and role.name in other.results:
                yield role, one, other


def test_every_option_has_a_rule_in_every_role() -> None:
    """A field that is forgotten would give two answers one key."""
    assert set(VALUES) == set(Options.model_fields), "give the new field values here, and a rule in each role"
    for role in ALL.models:
        assert set(role.option_rules) == set(Options.model_fields), role.name


def test_a_result_that_the_cache_has_for_one_event_is_right_for_every_event_that_looks_there() -> None:
    for role, one, other in pairs():
        for reader, writer in ((one, other), (other, one)):
            if ALL.cache_keys(role, writer)[0] in ALL.cache_keys(role, reader):
                own = rendered(role, reader, reader.results[role.name])
                assert rendered(role, reader, writer.results[role.name]) == own, (role.name, one.event, other.event)


def test_a_result_is_kept_once_where_options_do_not_change_it() -> None:
    keys = {
        role.name: {ALL.cache_keys(role, task)[0] for task in ASKED if role.name in task.results} for role in ALL.models
    }
    assert {name: len(found) for name, found in keys.items()} == {
        "tags": 2,
        "embedding": 1,
        "caption": 4,
        ADDED.name: 1,
    }


def test_equal_images_in_flight_have_equal_results() -> None:
    for one, other in combinations(ASKED, 2):
        if ALL.flight_key(one) == ALL.flight_key(other):
            assert one.results.keys() == other.results.keys()
            for role in ALL.wanted(one.event.options):
                assert rendered(role, one, one.results[role.name]) == rendered(role, one, other.results[role.name])


def test_known_results_do_not_stop_an_image_from_sharing_with_an_equal_one() -> None:
    """The tags may come from the cache for the later of two that want a caption of them."""
    for task in ASKED:
        assert ALL.flight_key(task) == ALL.flight_key(annotation(**task.event.options.model_dump()))


def test_other_options_are_another_id() -> None:
    ids = {
        enriched_id(
            bucket="b",
            key="k",
            version_id=None,
            etag="e",
            sequencer=None,
            event_id="1",
            models=Models(),
            thresholds=Thresholds(profile="any", digest="t"),
            options=task.event.options,
            status="complete",
        )
        for task in ASKED
    }
    assert len(ids) == len(ASKED)


def test_a_result_is_looked_up_once_its_inputs_are_known() -> None:
    roles = {role.name: role for role in ALL.models}
    tags, caption = roles["tags"], roles["caption"]
    assert len(ALL.cache_keys(tags, annotation(profile="reds"))) == 2, "the scores of all labels hold those of some"
    assert ALL.cache_keys(caption, annotation()) == ()
    guided = annotation(guide_tags=["red"])
    computed = annotation()
    computed.results["tags"] = ASKED[0].results["tags"]
    assert [len(ALL.cache_keys(caption, task)) for task in (guided, computed)] == [1, 1]


def test_the_same_text_of_two_options_is_not_the_same_key() -> None:
    def says_a(*_: object) -> str:
        return "a"

    rules: dict[str, OptionRule] = dict.fromkeys(Options.model_fields, changes_nothing)
    keys = {option_parts(rules | {name: says_a}, annotation(), {}) for name in Options.model_fields}
    assert len(keys) == len(Options.model_fields)
