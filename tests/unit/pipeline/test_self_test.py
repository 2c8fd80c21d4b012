"""A model or a device that answers wrongly: the known image tells, it is named, and no image is blamed for it."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from schemas.enriched_image import EnrichedImage
from tests.support.harness import ColourTagger, EchoCaptioner, Harness, running
from tests.support.manual_pipeline import ManualPipeline
from tests.support.measured import measuring
from tests.support.readers import read
from tests.support.waiting import eventually
from workers import metrics
from workers.errors import Broken
from workers.pipeline.answers import one_each, scores_of
from workers.pipeline.commit.publishing import Publishing
from workers.pipeline.stages.stage import StageQueue
from workers.pipeline.worker import Worker
from workers.types import Caption, LabelScores, Pixels, Transaction

EVERY_S = 300.0


class Rotting(ColourTagger):
    """Gives wrong answers for its self-test image in the next `wrong_for` batches; negative: in all."""

    wrong_for = 0
    raises = False

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []
        """Of each batch its images, by the brightness of the first pixel; 200 is the self-test image."""

    def forward(self, images: Sequence[Pixels]) -> Sequence[Any]:
        self.seen.append([int(image[0, 0, 0]) for image in images])
        rows = super().forward(images)
        if self.wrong_for == 0:
            return rows
        self.wrong_for -= 1
        if self.raises and 200 in self.seen[-1] and len(self.seen) % 2:
            raise RuntimeError("now and then")
        return [1 - row for row in rows]

    def check_self_test(self, answer: Any) -> None:
        if np.abs(answer - 200 / 255).max() > 1e-3:
            raise Broken("colours is off.")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    results: list[str] = []
    monkeypatch.setattr(metrics.SELF_TESTS, "add", lambda n=1, *, result: results.extend([result] * n))
    return results


@pytest.fixture
def tagger() -> Rotting:
    return Rotting()


@pytest.fixture
def manual(tagger: Rotting) -> ManualPipeline:
    return ManualPipeline(tagger=tagger, self_test_s=EVERY_S)


def tags(manual: ManualPipeline, offset: int) -> dict[str, float]:
    outcome = read(*manual.done[0, offset, 0])
    assert isinstance(outcome, EnrichedImage)
    return {tag.name: tag.score for tag in outcome.tags}


def age(manual: ManualPipeline) -> float:
    [(value, _)] = manual.pipeline.annotate.gauges[metrics.SELF_TEST_AGE]()
    return value


def test_an_idle_device_is_tested_when_the_time_has_come_and_not_before(
    manual: ManualPipeline, tagger: Rotting, told: list[str]
) -> None:
    manual.clock.advance(EVERY_S - 1)
    manual.pipeline.annotate.work()
    assert (tagger.seen, told, age(manual)) == ([], [], EVERY_S - 1)
    manual.clock.advance(1)
    manual.pipeline.annotate.work()
    manual.pipeline.annotate.work()
    assert (tagger.seen, told, age(manual)) == ([[200]], ["right"], 0)


def test_it_takes_the_place_of_one_image_in_a_batch_and_nothing_comes_of_it(
    manual: ManualPipeline, tagger: Rotting, told: list[str]
) -> None:
    keys = [f"{number}.png" for number in range(10)]
    manual.give(*keys)
    manual.clock.advance(EVERY_S)
    manual.turn()
    assert tagger.seen == [[*range(7), 200], [7, 8, 9]]
    assert told == ["right"]
    assert sorted(manual.done) == [(0, offset, 0) for offset in range(10)]
    assert not manual.in_flight


def test_where_one_image_is_the_largest_batch_it_runs_alone(tagger: Rotting, told: list[str]) -> None:
    tagger.max_batch = 1
    manual = ManualPipeline(tagger=tagger, self_test_s=EVERY_S)
    manual.give("a.png", "b.png")
    manual.clock.advance(EVERY_S)
    manual.turn()
    assert tagger.seen == [[0], [200], [1]]
    assert told == ["right"]


def test_the_batch_that_is_known_to_be_safe_is_shown_from_the_start(
    manual: ManualPipeline, tagger: Rotting, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = manual.pipeline.annotate.gauges[metrics.SAFE_BATCH]
    assert shown() == [(tagger.max_batch, {"role": "tags"})]
    forward = tagger.forward

    def small(images: Sequence[Pixels]) -> Sequence[Any]:
        if len(images) > 4:
            raise MemoryError
        return forward(images)

    monkeypatch.setattr(tagger, "forward", small)
    manual.give(*(f"{number}.png" for number in range(8)))
    manual.turn()
    assert shown() == [(4, {"role": "tags"})]


def test_switched_off_it_never_runs(tagger: Rotting) -> None:
    manual = ManualPipeline(tagger=tagger, self_test_s=0)
    manual.clock.advance(1e6)
    manual.pipeline.annotate.work()
    assert tagger.seen == []
    assert manual.pipeline.annotate.gauges[metrics.SELF_TEST_AGE]() == []


def test_one_wrong_answer_is_forgiven_and_its_batch_annotated_again(
    manual: ManualPipeline, tagger: Rotting, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Guard: the repeated batch; otherwise images of a wrong batch are published with their wrong answers."""
    manual.give("a.png", "b.png")
    manual.clock.advance(EVERY_S)
    tagger.wrong_for = 1
    with caplog.at_level(logging.WARNING):
        manual.turn()
    assert tagger.seen == [[0, 1, 200], [200, 200, 200], [0, 1]]
    assert told == ["wrong", "right"]
    assert tags(manual, 0) == {}, "of a dark image"
    assert "colours is off" in caplog.text
    assert len(manual.messages()) == 2, "it is held for ever"
    assert age(manual) == 0


def break_it(manual: ManualPipeline, tagger: Rotting) -> None:
    manual.give("a.png")
    manual.turn()
    manual.clock.advance(EVERY_S)
    manual.turn()
    manual.pipeline.annotate.work()
    tagger.wrong_for = -1
    manual.give("b.png", "c.png")
    manual.turn()
    manual.clock.advance(EVERY_S)
    manual.give("d.png")
    with pytest.raises(Broken, match=r"failed its self-test twice in a row .*\(colours is off\)"):
        manual.turn()


def test_two_wrong_answers_in_a_row_are_a_broken_device_and_nothing_leaves(
    manual: ManualPipeline, tagger: Rotting, told: list[str]
) -> None:
    """Guard: `Ledger.hold`; without it the publish thread takes finished outcomes before it learns of the end."""
    break_it(manual, tagger)
    assert told == ["right", "wrong", "wrong"]
    assert age(manual) == EVERY_S
    assert len(manual.done) == 3
    assert manual.messages() == []
    transactions: list[Transaction] = []

    class Publisher:
        def publish(self, transaction: Transaction) -> None:
            transactions.append(transaction)

    publishing = Publishing(Publisher(), manual.pipeline, manual.options, StageQueue(), StageQueue())  # type: ignore[arg-type]
    assert not publishing.step()
    assert transactions == []


def test_results_since_the_last_right_answer_are_removed_from_the_cache(
    manual: ManualPipeline, tagger: Rotting
) -> None:
    """Guard: `KnownResults.disown`; without it the next worker publishes the wrong scores, which it finds there."""
    break_it(manual, tagger)
    heir = ManualPipeline(tagger=Rotting(), cache=manual.cache)
    heir.give("a.png", "b.png", "c.png", "d.png")
    heir.turn()
    assert isinstance(heir.tagger, Rotting)
    [batch] = heir.tagger.seen
    assert len(batch) == 3, "only the first was computed before the last right answer"


def test_a_model_that_raises_on_the_known_image_among_others_has_not_answered_rightly(
    tagger: Rotting, told: list[str]
) -> None:
    manual = ManualPipeline(tagger=tagger, self_test_s=EVERY_S)
    manual.clock.advance(EVERY_S)
    tagger.wrong_for, tagger.raises = 1, True
    manual.pipeline.annotate.work()
    assert told == ["wrong", "right"]


def test_a_device_that_gives_no_answer_the_second_time_is_broken(manual: ManualPipeline, tagger: Rotting) -> None:
    manual.clock.advance(EVERY_S)
    tagger.wrong_for = 1
    forward = tagger.forward

    def once(images: Sequence[Pixels]) -> Sequence[Any]:
        rows = forward(images)
        tagger.broken = True
        return rows

    tagger.forward = once  # type: ignore[method-assign]
    with pytest.raises(Broken, match=r"failed its self-test twice in a row .*the device is gone"):
        manual.pipeline.annotate.work()


class Forgetful(EchoCaptioner):
    def __init__(self) -> None:
        super().__init__()
        self.forgets = False

    def postprocess(self, raw: Any) -> Caption:
        return Caption("blank" if self.forgets else raw, -0.5, "greedy")

    def check_self_test(self, answer: Caption) -> None:
        if answer.text != "saw ":
            raise Broken(f"echo says {answer.text!r}.")


def ends(worker: Worker, when: Callable[[], object]) -> str:
    def live() -> None:
        with running(worker):
            when()
            eventually(lambda: worker._crashed is not None, 30)

    with pytest.raises(Broken) as caught:
        live()
    return str(caught.value)


def test_a_worker_with_a_failing_captioner_ends_and_names_it(harness: Harness) -> None:
    captioner = harness.captioner = Forgetful()
    worker = harness.worker(self_test_s=0.05)

    def rot() -> None:
        harness.give("a.png", (255, 0, 0))
        harness.settled()
        captioner.forgets = True

    assert "echo says 'blank'" in ends(worker, rot)
    assert [image.caption.text for image in harness.enriched().values() if image.caption] == ["saw red"]
    assert "" in captioner.guides, "the known image was not captioned under no guide"


def test_both_results_of_a_self_test_are_shown_before_the_first(tagger: Rotting) -> None:
    """An alert asks for the increase of wrong ones, which the first of them is only after a zero."""
    with measuring(metrics.SELF_TESTS) as measured:
        ManualPipeline(tagger=tagger, self_test_s=EVERY_S)
        assert measured.by("result", metrics.SELF_TESTS) == {"right": 0, "wrong": 0}


class Says(ColourTagger):
    def __init__(self, ids: Any, scores: Any) -> None:
        super().__init__()
        self._answer = LabelScores(np.array(ids, np.int32), np.array(scores, np.float32))

    def postprocess(self, raw: Any) -> LabelScores:
        return self._answer


def test_a_sound_answer_passes_and_one_that_is_no_number_raises_as_the_port_says() -> None:
    answer = scores_of(Says([0, 2], [0.0, 1.0]), None)
    assert (answer.label_ids.tolist(), answer.scores.tolist()) == ([0, 2], [0, 1])
    assert scores_of(Says([], []), None).scores.size == 0
    with pytest.raises(ValueError, match="not a number among 2 scores"):
        scores_of(Says([0, 1], [0.5, np.nan]), None)


@pytest.mark.parametrize(
    ("ids", "scores", "said"),
    [
        pytest.param([0, 1, 2], [0.5, 0.5], r"ids .*shape \(3,\) with scores of the shape \(2,\)", id="fewer scores"),
        pytest.param([[0], [1]], [[0.5], [0.5]], r"ids .*shape \(2, 1\)", id="two dimensions"),
        pytest.param([0, 3], [0.5, 0.5], "ids .*do not ascend between 0 and 2", id="no such label"),
        pytest.param([-1, 0], [0.5, 0.5], "ids .*do not ascend between 0 and 2", id="a negative label"),
        pytest.param([1, 0], [0.5, 0.5], "ids .*do not ascend between 0 and 2", id="out of order"),
        pytest.param([1, 1], [0.5, 0.5], "ids .*do not ascend between 0 and 2", id="twice"),
        pytest.param([0], [-0.001], "scores from .*, outside 0 to 1", id="below 0"),
        pytest.param([0], [1.001], "scores from .*, outside 0 to 1", id="above 1"),
    ],
)
def test_scores_that_could_not_be_published_are_the_models_mistake(ids: Any, scores: Any, said: str) -> None:
    with pytest.raises(Broken, match=f"the model colours returned (label )?{said}"):
        scores_of(Says(ids, scores), None)


@pytest.mark.parametrize(("answers", "found"), [([1], "1"), ([1, 2, 3], "3"), (None, "NoneType")])
def test_another_number_of_answers_is_the_models_mistake(answers: Any, found: str) -> None:
    assert one_each(ColourTagger(), [1, 2], 2) == [1, 2]
    with pytest.raises(Broken, match=f"the model colours was given 2 images and returned {found} answers"):
        one_each(ColourTagger(), answers, 2)


def test_a_captioner_that_fails_to_put_one_answer_into_words_costs_that_caption_alone(harness: Harness) -> None:
    class Stumbles(EchoCaptioner):
        def postprocess(self, raw: Any) -> Caption:
            if "red" in raw:
                raise KeyError("no such word")
            return super().postprocess(raw)

    harness.captioner = Stumbles()
    for key, colour in (("red.png", (255, 0, 0)), ("blue.png", (0, 0, 255))):
        harness.give(key, colour)
    harness.work()
    assert {key: image.status for key, image in harness.enriched().items()} == {
        "red.png": "partial",
        "blue.png": "complete",
    }
