"""Threshold profiles: the shown scores, and clear errors for unreadable files."""

from typing import Any

import numpy as np
import pytest

from tests.support.harness import ChoosyTagger, ColourTagger
from workers.errors import Misconfigured
from workers.pipeline.profiles import default_profiles, make_profile, read_profiles
from workers.types import LabelScores, Subset


def scores(*values: float) -> LabelScores:
    return LabelScores(np.arange(len(values), dtype=np.int32), np.array(values, np.float32))


def test_a_tag_is_shown_when_its_score_is_greater_than_its_threshold_best_first() -> None:
    profile = make_profile("p", [0.5, 0.5, 0.25, 0.9])
    assert [i for i, _ in profile.select(scores(0.5, 0.75, 1.0, 0.5))] == [2, 1]


def test_equal_scores_come_in_label_order() -> None:
    assert [i for i, _ in make_profile("p", [0.1] * 3).select(scores(0.5, 0.75, 0.5))] == [1, 0, 2]


def test_a_profile_replaces_all_thresholds_or_single_ones_and_its_digest_tells() -> None:
    profiles = read_profiles(ColourTagger(), {"strict": {"all": 0.9}, "red": {"labels": {"red": 0.125}}})
    assert profiles["strict"].thresholds.tolist() == pytest.approx([0.9] * 3)
    assert profiles["red"].thresholds.tolist() == [0.125, 0.5, 0.5]
    assert len({profiles[name].digest for name in ("default", "strict", "red")}) == 3


def test_the_bundles_own_profiles_are_offered_with_the_default() -> None:
    profiles = default_profiles(ColourTagger())
    assert {name: profile.thresholds.tolist() for name, profile in profiles.items()} == {
        "default": [0.5] * 3,
        "paper": [0.75] * 3,
    }
    assert all(name == profile.name for name, profile in profiles.items())


def test_a_profile_of_ones_own_takes_the_place_of_the_bundles() -> None:
    profiles = read_profiles(ColourTagger(), {"paper": {"labels": {"red": 0.25}}})
    assert profiles["paper"].thresholds.tolist() == [0.25, 0.5, 0.5]


def test_no_profile_of_a_bundle_can_change_what_default_means() -> None:
    tagger = ColourTagger()
    tagger.profiles = {"default": (0.1, 0.1, 0.1)}
    assert default_profiles(tagger)["default"].thresholds.tolist() == [0.5] * 3


def test_without_a_tagger_there_is_the_default_alone() -> None:
    assert list(default_profiles(None)) == ["default"]


def test_tags_outside_a_profile_are_not_shown_and_not_scored() -> None:
    profile = read_profiles(ChoosyTagger(), {"p": {"only": ["blue", "red"], "all": 0.25, "labels": {"red": 0.125}}})[
        "p"
    ]
    assert profile.thresholds.tolist() == [0.125, 1, 0.25]
    assert profile.subset == Subset((0, 2))
    assert [i for i, _ in profile.select(scores(0.5, 1.0, 0.75))] == [2, 0]


def test_a_name_that_several_labels_share_means_all_of_them() -> None:
    tagger = ChoosyTagger()
    tagger.labels = ("red", "green", "red")
    assert read_profiles(tagger, {"p": {"only": ["red"]}})["p"].subset == Subset((0, 2))


@pytest.mark.parametrize(
    ("tagger", "only", "allowed"),
    [
        (ColourTagger(), ["red"], None),
        (ChoosyTagger(), ["green", "red", "blue"], None),
        (ChoosyTagger(), ["red", "green"], {"green", "red"}),
    ],
)
def test_nothing_is_left_out_where_a_tagger_scores_just_that_anyway(
    tagger: ColourTagger, only: list[str], allowed: set[str] | None
) -> None:
    assert read_profiles(tagger, {"p": {"only": only}}, allowed)["p"].subset is None


def test_a_profile_cant_name_a_tag_that_is_never_scored() -> None:
    with pytest.raises(Misconfigured, match="'blue' is not among the tags that TAGSTREAM_LABELS_FILE names"):
        read_profiles(ChoosyTagger(), {"p": {"only": ["red", "blue"]}}, {"red", "green"})


@pytest.mark.parametrize("ids", [(), (1, 1), (2, 1)])
def test_a_subset_is_of_labels_that_ascend(ids: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        Subset(ids)


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"labels": {"purple": 0.5}}, "has no tag 'purple'"),
        ({"only": ["blu"]}, r"colours has no tag 'blu'\. Do you mean 'blue'\?"),
        ({"only": []}, "at least one"),
        ({"only": "red"}, "is a list of tags' names"),
        ({"only": [7]}, "is a list of tags' names"),
        ({"only": ["red"], "labels": {"blue": 0.5}}, "'blue' has a threshold, but is not among `only`"),
        ({"all": 2}, "not a number from 0 to 1"),
        ({"all": True}, "not a number from 0 to 1"),
        ({"every": 1}, "give {"),
        ([], "give {"),
        ({"labels": [1]}, "a mapping"),
    ],
)
def test_what_cannot_be_read_is_said_clearly(rules: Any, says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        read_profiles(ColourTagger(), {"p": rules})
