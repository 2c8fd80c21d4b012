"""Tags: which labels are scored, which are shown, and what is told of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from schemas.correction import correction
from schemas.enriched_image import Tag
from tagstream_testing.memory import MemoryCorrections
from tests.support.harness import ChoosyTagger, ColourTagger
from tests.support.tasks import PROFILES, TAGGER, a_task
from workers.errors import Broken
from workers.pipeline.tagging import Tagging
from workers.pipeline.task import Task
from workers.types import DecodedImage, LabelScores


class Translated(ColourTagger):
    translations: Mapping[str, Sequence[str]] = {"de": ("rot", "grün", "blau")}


class OfNoLabel(ColourTagger):
    """Its scores are of a label that it has not."""

    def postprocess(self, raw: Any) -> LabelScores:
        return LabelScores(np.array([3], np.int32), np.array([0.5], np.float32))


def pictured(**options: Any) -> Task:
    task = a_task(**options)
    task.image = DecodedImage({TAGGER.transform: np.full((8, 8, 3), (220, 30, 160), np.uint8)})
    return task


def scored(**options: Any) -> Task:
    task = pictured(**options)
    task.results["tags"] = LabelScores(np.array([0, 1, 2], np.int32), np.array([0.6, 0.2, 0.95], np.float32))
    return task


def tags(tagging: Tagging, task: Task) -> list[Tag]:
    return [Tag(**tag) for tag in tagging.tags(task)]


def names(tagging: Tagging, task: Task) -> list[str]:
    return [tag.name for tag in tags(tagging, task)]


def test_tags_are_the_labels_above_their_thresholds_best_first() -> None:
    tagging = Tagging(TAGGER)
    assert [names(tagging, scored(**more)) for more in ({}, {"profile": "strict"}, {"profile": "reds"})] == [
        ["blue", "red"],
        ["blue"],
        ["red"],
    ]
    assert tagging.names_by_label(scored()) == ["red", "blue"]
    assert (tagging.tags(a_task()), tagging.names_by_label(a_task())) == ((), [])


def test_a_tag_says_its_label_and_its_names_in_other_languages() -> None:
    [blue, _] = tags(Tagging(Translated()), scored())
    assert (blue.name, blue.label_id, blue.translations) == ("blue", 2, {"de": "blau"})
    assert blue.score == pytest.approx(0.95)
    [blue, _] = tags(Tagging(TAGGER), scored())
    assert blue.translations is None


def test_tags_that_were_not_asked_for_are_not_shown_though_they_guide() -> None:
    unasked = scored(want=("caption",))
    assert Tagging(TAGGER).render(unasked) == {"tags": (), "corrections": None}
    assert Tagging(TAGGER).names_by_label(unasked) == ["red", "blue"]


def test_a_tagger_is_asked_for_the_labels_of_a_profile_where_it_can_score_them_alone() -> None:
    choosy, plain = ChoosyTagger(), ColourTagger()
    for tagger in (choosy, plain):
        tagging = Tagging(tagger)
        answers = [tagging.finish(answer) for answer in tagging.run([pictured(), pictured(profile="reds")])]
        assert [list(answer.label_ids) for answer in answers] == [[0, 1, 2], [0] if tagger is choosy else [0, 1, 2]]
    assert choosy.asked == [None, PROFILES["reds"].subset]
    Tagging(choosy).run([pictured()])
    assert len(choosy.asked) == 2, "all labels are scored the way that every tagger has"


def test_the_self_test_scores_the_same_labels_as_the_image() -> None:
    choosy = ChoosyTagger()
    Tagging(choosy).self_test(pictured(profile="reds"))
    assert choosy.asked == [PROFILES["reds"].subset]
    choosy.nan = True
    with pytest.raises(ValueError, match="number"):
        Tagging(choosy).self_test(pictured())
    with pytest.raises(Broken):
        Tagging(OfNoLabel()).self_test(pictured())


def test_scores_are_kept_by_the_labels_that_were_scored() -> None:
    rule = Tagging(TAGGER).option_rules["profile"]
    subset = PROFILES["reds"].subset
    assert subset is not None
    assert rule(a_task(profile="reds"), {}) == subset.digest
    assert rule(a_task(profile="strict"), {}) is None


def test_packed_scores_come_back_and_those_of_other_labels_do_not() -> None:
    tagging = Tagging(TAGGER)
    packed = tagging.pack(scored().results["tags"])
    back = tagging.unpack(packed)
    assert back is not None
    assert back.label_ids.tolist() == [0, 1, 2]
    beyond = LabelScores(np.array([3], np.int32), np.array([0.5], np.float32))
    assert (tagging.unpack(tagging.pack(beyond)), tagging.unpack(None)) == (None, None)


def test_of_a_name_that_two_labels_have_a_person_means_the_first() -> None:
    class Twice(ColourTagger):
        labels: Sequence[str] = ("red", "green", "red")

    said = MemoryCorrections()
    said.produce(correction("photos", "a.png", added=["red"]))
    said.follow(0)
    [red] = tags(Tagging(Twice(), said), scored())
    assert (red.label_id, red.source) == (0, "person")
