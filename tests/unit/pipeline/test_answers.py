"""A model that answers wrongly is named, and no image is blamed for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.harness import ColourTagger, EchoCaptioner, Harness
from workers.errors import Broken
from workers.pipeline.answers import caption_of, one_each, scores_of
from workers.types import Caption, LabelScores


class Says(ColourTagger):
    """Answers as it is told, whatever the image."""

    def __init__(self, ids: Any, scores: Any) -> None:
        super().__init__()
        self._answer = LabelScores(np.array(ids, np.int32), np.array(scores, np.float32))

    def postprocess(self, raw: Any) -> LabelScores:
        return self._answer


def test_a_sound_answer_passes() -> None:
    answer = scores_of(Says([0, 2], [0.5, 1.0]), None)
    assert answer.label_ids.tolist() == [0, 2]
    assert scores_of(Says([], []), None).scores.size == 0


@pytest.mark.parametrize(
    ("ids", "scores", "said"),
    [
        pytest.param([0, 1, 2], [0.5, 0.5], r"shape \(3,\) with scores of the shape \(2,\)", id="fewer scores"),
        pytest.param([[0], [1]], [[0.5], [0.5]], r"shape \(2, 1\)", id="two dimensions"),
        pytest.param([0, 3], [0.5, 0.5], "do not ascend between 0 and 2", id="no such label"),
        pytest.param([-1, 0], [0.5, 0.5], "do not ascend between 0 and 2", id="a negative label"),
        pytest.param([1, 0], [0.5, 0.5], "do not ascend between 0 and 2", id="out of order"),
        pytest.param([1, 1], [0.5, 0.5], "do not ascend between 0 and 2", id="twice"),
    ],
)
def test_scores_that_belong_to_no_labels_are_the_models_mistake(ids: Any, scores: Any, said: str) -> None:
    with pytest.raises(Broken, match=f"the model colours returned label ids .*{said}"):
        scores_of(Says(ids, scores), None)


def test_a_score_that_is_no_number_is_told_as_the_port_says_even_if_the_tagger_does_not_look() -> None:
    with pytest.raises(ValueError, match="not a number among 2 scores"):
        scores_of(Says([0, 1], [0.5, np.nan]), None)


@pytest.mark.parametrize(("answers", "found"), [([1], "1"), ([1, 2, 3], "3"), (None, "NoneType")])
def test_another_number_of_answers_is_the_models_mistake(answers: Any, found: str) -> None:
    assert one_each(ColourTagger(), [1, 2], 2) == [1, 2]
    with pytest.raises(Broken, match=f"the model colours was given 2 images and returned {found} answers"):
        one_each(ColourTagger(), answers, 2)


def test_a_caption_that_is_none_is_the_models_mistake() -> None:
    class Mute(EchoCaptioner):
        def postprocess(self, raw: Any) -> Caption:
            return None  # type: ignore[return-value]

    assert caption_of(EchoCaptioner(), "a cat").text == "a cat"
    with pytest.raises(Broken, match="the model echo returned a NoneType for a caption"):
        caption_of(Mute(), "a cat")


def test_a_captioner_that_fails_to_put_one_answer_into_words_costs_that_caption_alone() -> None:
    class Stumbles(EchoCaptioner):
        def postprocess(self, raw: Any) -> Caption:
            if "red" in raw:
                raise KeyError("no such word")
            return super().postprocess(raw)

    harness = Harness()
    harness.captioner = Stumbles()
    for key, colour in (("red.png", (255, 0, 0)), ("blue.png", (0, 0, 255))):
        harness.put(key, colour)
        harness.send(harness.event(key))
    with harness.running():
        harness.settled()
    assert {key: image.status for key, image in harness.enriched().items()} == {
        "red.png": "partial",
        "blue.png": "complete",
    }
