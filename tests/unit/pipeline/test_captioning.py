"""Captions: which tags guide one, what a captioner's answers become, and when an event shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from schemas.enriched_image import CaptionText
from tests.support.harness import EchoCaptioner
from tests.support.tasks import TAGGER, a_task
from workers.errors import Broken
from workers.pipeline.captioning import Captioning, TemplateCaptioning
from workers.pipeline.tagging import Tagging
from workers.pipeline.task import Task
from workers.types import Caption, DecodedImage, LabelScores, Pixels

CAPTION = Caption("saw it", -0.5, "greedy")
TAGGING = Tagging(TAGGER)


class OfNumbers(EchoCaptioner):
    """Answers what no captioner answers."""

    def postprocess(self, raw: Any) -> Any:
        return 5


class OfOne(EchoCaptioner):
    """Answers for one image, however many there are."""

    def forward(self, images: Sequence[Pixels], guides: Sequence[str]) -> Sequence[Any]:
        return super().forward(images, guides)[:1]


def tagged(**options: Any) -> Task:
    """A task with pixels, whose blue is above its threshold by more than its red is, and its green below."""
    task = a_task(**options)
    task.image = DecodedImage({EchoCaptioner.transform: np.zeros((4, 4, 3), np.uint8)})
    task.results["tags"] = LabelScores(np.array([0, 1, 2], np.int32), np.array([0.6, 0.2, 0.95], np.float32))
    return task


def test_each_image_is_captioned_under_its_own_guide() -> None:
    captioner = EchoCaptioner()
    captions = Captioning(captioner, TAGGING).run([tagged(), tagged(guide_tags=("a", "b")), tagged(profile="strict")])
    assert [caption.text for caption in captions] == ["saw red | blue", "saw a | b", "saw blue"]
    [unguided] = Captioning(captioner, None).run([tagged()])
    assert unguided.text == "saw "


def test_a_captioner_that_answers_something_else_is_broken() -> None:
    for captioner, tasks in ((OfNumbers(), [tagged()]), (OfOne(), [tagged(), tagged()])):
        with pytest.raises(Broken):
            Captioning(captioner, TAGGING).run(tasks)


def test_the_self_test_is_an_answer_for_the_image_that_is_known_to_be_good() -> None:
    good, failing = EchoCaptioner(), EchoCaptioner()
    Captioning(good, TAGGING).self_test(tagged())
    assert good.guides == [""]
    with pytest.raises(Broken):
        Captioning(OfNumbers(), TAGGING).self_test(tagged())
    failing.self_test_image = lambda: np.zeros((4, 4, 3), np.uint8)  # type: ignore[method-assign]  # no good one
    failing.fails = True
    with pytest.raises(RuntimeError):
        Captioning(failing, TAGGING).self_test(tagged())


def test_an_event_shows_the_caption_that_it_asked_for() -> None:
    captioning = Captioning(EchoCaptioner(), TAGGING)
    without, with_one, unasked = tagged(), tagged(), tagged(want=("tags",))
    with_one.results["caption"] = unasked.results["caption"] = CAPTION
    assert captioning.render(without) == captioning.render(unasked) == {"caption": None}
    shown = CaptionText(**captioning.render(with_one)["caption"])
    assert (shown.text, shown.score, shown.method, shown.guided_by) == ("saw it", -0.5, "greedy", ("red", "blue"))


def test_a_caption_is_kept_under_what_guided_it_once_that_is_known() -> None:
    captioning = Captioning(EchoCaptioner(), TAGGING)
    guide, chooses = (captioning.option_rules[name] for name in ("guide_tags", "profile"))
    task, given = tagged(), tagged(guide_tags=("red", "blue"))
    assert guide(task, {}) is None
    assert guide(task, task.results) == guide(given, {}) != guide(tagged(guide_tags=("blue", "red")), {})
    assert chooses(task, task.results) is chooses(given, {}) is None
    assert chooses(task, {}) == task.profile.digest
    alone = Captioning(EchoCaptioner(), None)
    assert alone.option_rules["guide_tags"](task, {}) is not None
    assert alone.option_rules["profile"](task, {}) is None


def test_a_packed_caption_comes_back_under_a_key_of_its_captioner() -> None:
    captioning = Captioning(EchoCaptioner(), TAGGING)
    assert captioning.unpack(captioning.pack(captioning.finish(CAPTION))) == CAPTION
    assert captioning.unpack(None) is None
    other = EchoCaptioner()
    other.options_digest = "beams"
    assert Captioning(other, TAGGING).made_by != captioning.made_by == Captioning(EchoCaptioner(), None).made_by


def test_a_caption_needs_tags_unless_it_is_guided() -> None:
    for role in (Captioning(EchoCaptioner(), TAGGING), TemplateCaptioning(lambda names: CAPTION, TAGGING)):
        assert role.needs(a_task().event.options) == {"tags"}
        assert role.needs(a_task(guide_tags=("a",)).event.options) == frozenset()


def test_a_template_is_filled_with_the_guide_or_the_tags_best_first() -> None:
    template = TemplateCaptioning(lambda names: Caption(" and ".join(names), None, "template"), TAGGING)
    shown = [CaptionText(**template.render(task)["caption"]) for task in (tagged(), tagged(guide_tags=("a", "b")))]
    assert [(each.text, each.guided_by) for each in shown] == [
        ("blue and red", ("blue", "red")),
        ("a and b", ("a", "b")),
    ]
    assert template.render(tagged(want=("tags",))) == {"caption": None}
    assert template.refusal(tagged()) is None
    alone = TemplateCaptioning(lambda names: Caption(f"{len(names)} tags", None, "template"), None)
    assert alone.render(tagged())["caption"]["text"] == "0 tags"
