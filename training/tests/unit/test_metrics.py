"""Metrics of tags and of captions, and thresholds that are chosen by them."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from tagstream_train.evaluate import bleu, cider, words
from tagstream_train.fit.measures import Labels, Rule, Scored, judged, thresholds_of
from tagstream_train.metrics import (
    OFF,
    Summary,
    Table,
    best_f1,
    choose,
    curve,
    precision_floor,
    table,
)

SCORES = np.array([[0.9, 0.1], [0.8, 0.6], [0.7, 0.2], [0.6, 0.9]], np.float32)
TARGETS = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)


def random_scores(seed: int, images: int = 300, classes: int = 7) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    targets = (random.random((images, classes)) < np.linspace(0.05, 0.6, classes)).astype(np.float32)
    scores = np.clip(0.25 * targets + random.random((images, classes)) * 0.75, 0, 1).astype(np.float32)
    return scores, targets


@pytest.mark.slow  # scikit-learn takes a second to load
@pytest.mark.parametrize("seed", range(3))
def test_numbers_equal_scikit_learns(seed: int) -> None:
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support

    scores, targets = random_scores(seed)
    found = table(scores, targets, 0.5)
    np.testing.assert_allclose(found.ap, average_precision_score(targets, scores, average=None), atol=1e-9)
    expected = precision_recall_fscore_support(targets, scores >= 0.5, average=None)
    for mine, other in zip((found.precision, found.recall, found.f1), expected, strict=False):
        np.testing.assert_allclose(mine, other, atol=1e-9)


def test_means_are_over_classes_and_a_score_at_the_threshold_counts() -> None:
    found = table(SCORES, TARGETS, np.array([0.7, 0.6]))
    np.testing.assert_allclose(found.precision, [2 / 3, 1])
    np.testing.assert_allclose(found.recall, [1, 1])
    mean = found.mean()
    assert [mean.precision, mean.recall] == pytest.approx([5 / 6, 1])
    assert mean.f1 == pytest.approx(2 * (5 / 6) / (5 / 6 + 1))


def test_f1_is_that_of_the_means_as_in_the_papers() -> None:
    ones = np.ones(1)
    summary = Table(np.array([1]), ones, 0.799 * ones, 0.754 * ones, ones).mean()
    assert round(100 * summary.f1, 1) == 77.6  # RAM++, table 8


def test_a_class_that_no_image_has_is_left_out() -> None:
    targets = np.concatenate([TARGETS, np.zeros((4, 1), np.float32)], 1)
    found = table(np.concatenate([SCORES, SCORES[:, :1]], 1), targets, 0.5)
    assert np.isnan([found.ap[2], found.precision[2], found.recall[2], found.f1[2]]).all()
    without = table(SCORES, TARGETS, 0.5).mean()
    assert found.mean() == Summary(without.map, without.precision, without.recall, without.f1, 2, 3)


def test_an_image_with_an_unknown_label_does_not_count_for_it() -> None:
    weights = np.ones_like(TARGETS)
    weights[1, 0] = 0
    found = table(SCORES, TARGETS, 0.65, weights)
    np.testing.assert_allclose(found.ap, [1, 1])
    np.testing.assert_allclose(found.precision, [1, 1])


def test_nothing_to_measure_gives_no_number() -> None:
    mean = table(SCORES, np.zeros_like(TARGETS), 0.5).mean()
    assert np.isnan(mean.map)
    assert mean.measured == 0


# thresholds


def precision_and_recall(
    scores: NDArray[np.float32], targets: NDArray[np.float32], threshold: float
) -> tuple[float, float]:
    taken, has = scores.astype(float) > threshold, targets > 0
    return (taken & has).sum() / max(taken.sum(), 1), (taken & has).sum() / has.sum()


def f1_of(scores: NDArray[np.float32], targets: NDArray[np.float32], threshold: float) -> float:
    precision, recall = precision_and_recall(scores, targets, threshold)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(3))
def test_the_best_f1_is_near_that_of_every_other_threshold(seed: int) -> None:
    scores, targets = random_scores(seed)
    short = []
    for label, chosen in enumerate(choose(scores, targets, best_f1)):
        one = scores[:, label], targets[:, label]
        short.append(max(f1_of(*one, bar) for bar in np.linspace(0, 0.99, 200)) - f1_of(*one, chosen.value))
    assert np.mean(short) < 0.05


def test_of_few_images_the_smoothed_best_f1_serves_other_images_better() -> None:
    """A logistic fit's scores: log-odds of ±1.5 with a spread of 1.5; 100 images choose, 3,000 others measure."""
    random, gained = np.random.default_rng(0), []

    def drawn(images: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        targets = (random.random((images, 1)) < 0.3).astype(np.float32)
        odds = 3 * targets - 1.5 + 1.5 * random.standard_normal((images, 1))
        return (1 / (1 + np.exp(-odds))).astype(np.float32), targets

    for _ in range(60):
        few, others = drawn(100), drawn(3000)
        points = curve(few[0][:, 0], few[1][:, 0] > 0)
        highest = float(points.thresholds[points.f1.argmax()])
        gained.append(f1_of(*others, choose(*few, best_f1, least_positives=1)[0].value) - f1_of(*others, highest))
    assert np.mean(gained) > 2 * np.std(gained) / len(gained) ** 0.5


def test_sure_scores_and_whole_numbers_give_a_threshold_between_them() -> None:
    scores, targets = np.array([[1], [1], [0], [0]], np.float32), np.array([[1], [1], [0], [0]], np.float32)
    (chosen,) = choose(scores, targets, best_f1, least_positives=1)
    assert 0 < chosen.value < 1
    assert precision_and_recall(scores[:, 0], targets[:, 0], chosen.value) == (1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_a_floor_of_precision_is_kept_with_the_best_recall(seed: int) -> None:
    scores, targets = random_scores(seed)
    for label, chosen in enumerate(choose(scores, targets, precision_floor(0.8))):
        precision, recall = precision_and_recall(scores[:, label], targets[:, label], chosen.value)
        assert precision >= 0.8 or chosen.why
        for bar in np.linspace(0, 0.99, 200):
            other = precision_and_recall(scores[:, label], targets[:, label], bar)
            assert other[0] < 0.8 or other[1] <= recall + 1e-9


def test_equal_scores_are_taken_together() -> None:
    scores, targets = np.full((10, 1), 0.4, np.float32), np.array([[1], [0]] * 5, np.float32)
    (chosen,) = choose(scores, targets, best_f1)
    assert chosen.value == pytest.approx(0.2)
    assert len(curve(scores[:, 0], targets[:, 0] > 0).thresholds) == 1


def test_a_label_of_too_few_images_is_switched_off_or_as_asked() -> None:
    (off,) = choose(SCORES[:, :1], TARGETS[:, :1], best_f1, least_positives=3)
    assert (off.value, off.positives, off.why) == (OFF, 2, "2 images with it, and 3 wanted")
    (kept,) = choose(SCORES[:, :1], TARGETS[:, :1], best_f1, least_positives=3, otherwise=0.7)
    assert kept.value == 0.7
    (never,) = choose(SCORES[:, :1], 0 * TARGETS[:, :1], best_f1, least_positives=0)
    assert never.value == OFF


def test_a_precision_that_is_never_reached_switches_a_label_off() -> None:
    scores = np.array([[0.9], [0.5]], np.float32)
    (chosen,) = choose(scores, np.array([[0], [1]], np.float32), precision_floor(0.8), least_positives=1)
    assert (chosen.value, chosen.why) == (OFF, "no threshold is good enough")


def test_a_threshold_is_chosen_on_images_with_a_known_label() -> None:
    weights = np.array([[1], [0], [1], [1]], np.float32)
    (chosen,) = choose(SCORES[:, :1], TARGETS[:, :1], best_f1, weights=weights, least_positives=1)
    known = weights[:, 0] > 0
    assert precision_and_recall(SCORES[known, 0], TARGETS[known, 0], chosen.value) == (1, 1)


SAID = "a the dog cat red blue circle square left of two three on grass runs jumps small large behind under and with"
WORDS = [*SAID.split(), "ball"]


def made(seed: int) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Forty captions that are one of their references with a quarter of the words changed, some cut short."""
    random = Random(seed)

    def pick(values: list[str]) -> str:
        return values[int(random.random() * len(values))]

    references = [
        [[pick(WORDS) for _ in range(3 + int(random.random() * 10))] for _ in range(1 + int(random.random() * 5))]
        for _ in range(40)
    ]
    captions = []
    for others in references:
        caption = list(others[int(random.random() * len(others))])
        for place in range(len(caption)):
            if random.random() < 0.25:
                caption[place] = pick(WORDS)
        captions.append(caption[:-2] or caption if random.random() < 0.3 else caption)
    return captions, references


EXPECTED = {
    1: (
        (0.8349321546432075, 0.6984524467595518, 0.5918547219672032, 0.4986483122532299),
        2.5663877718659758,
        [3.193684340122507, 7.7092805162738145, 1.2904185452820713],
    ),
    2: (
        (0.841760750615471, 0.7336874013516195, 0.6582829840255329, 0.5931152323873137),
        2.3483455152297994,
        [1.4499218024598735, 0.637349529846487, 5.44991165846212],
    ),
    3: (
        (0.8095404321266465, 0.6932606408206741, 0.6061354745447756, 0.5331940190649707),
        2.4705371350961918,
        [3.9065582541527952, 2.275092231474302, 1.8977664066814732],
    ),
}


@pytest.mark.parametrize("seed", sorted(EXPECTED))
def test_numbers_equal_cocos(seed: int) -> None:
    captions, references = made(seed)
    expected_bleu, expected_cider, first = EXPECTED[seed]
    assert bleu(captions, references) == pytest.approx(expected_bleu, rel=1e-9)
    scores = cider(captions, references)
    assert sum(scores) / len(scores) == pytest.approx(expected_cider, rel=1e-9)
    assert scores[:3] == pytest.approx(first, rel=1e-9)


def test_a_reference_itself_is_perfect() -> None:
    references = [[words("a dog runs on the green grass")], [words("two cats sleep under a small tree")]]
    captions = [others[0] for others in references]
    assert bleu(captions, references) == pytest.approx((1, 1, 1, 1))
    assert cider(captions, references) == pytest.approx([10, 10])


def test_a_caption_without_words_is_worth_nothing() -> None:
    references = [[words("a dog runs on grass")], [words("a cat sleeps under a tree")]]
    assert cider([[], words("a cat")], references)[0] == 0
    assert bleu([[], []], references) == pytest.approx((0, 0, 0, 0), abs=1e-9)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A dog, on grass.", ["a", "dog", "on", "grass"]),
        ("The dog's ball isn't red!", ["the", "dog", "'s", "ball", "is", "n't", "red"]),
        ("It’s a T-shirt (blue) -- no. 42", ["it", "'s", "a", "t-shirt", "blue", "no", "42"]),
        ("", []),
        ("...", []),
        ("Ein Hund läuft übers Gras", ["ein", "hund", "läuft", "übers", "gras"]),
    ],
)
def test_words_are_lower_case_and_without_punctuation(caption: str, expected: list[str]) -> None:
    assert words(caption) == expected


LABELS = Labels(("old", "new", "rare", "all"), 1, (0, 1, 2, 3), (0.3,))


def _scored() -> Scored:
    """Eight images: `rare` is on one, `all` on each."""
    targets = np.array([[1, 1, 1, 1]] + [[1, 1, 0, 1]] * 3 + [[0, 0, 0, 1]] * 4, np.float32)
    scores = np.linspace(0.9, 0.1, 8, dtype=np.float32)[:, None].repeat(4, 1)
    return Scored(scores, targets, np.ones_like(targets))


@pytest.mark.parametrize(("floor", "rare"), [(None, 0.5), (0.9, OFF)])
def test_a_rare_label_abstains_where_a_precision_is_promised(floor: float | None, rare: float) -> None:
    found = thresholds_of(LABELS, _scored(), Rule(0.01, floor))
    assert (found["rare"].value, found["all"].value) == (rare, rare)
    assert [name for name, each in found.items() if each.why] == ["rare", "all"]
    assert 0.4 < found["old"].value < 0.6


def test_a_label_that_every_image_has_measures_nothing() -> None:
    scored = _scored()
    assert scored.map([3]) is None
    assert scored.map([0, 3]) == pytest.approx(1)
    kept = judged(LABELS, scored, np.arange(8) % 2, Rule(0.01), "these").promises
    assert {name: bool(np.isnan(each.precision)) for name, each in kept.items()} == {
        name: name == "all" for name in LABELS.names
    }


@pytest.mark.parametrize(("bar", "measured"), [(0.5, True), (0.95, False)])
def test_old_labels_that_were_shown_on_no_image_are_not_measured_and_it_is_said(bar: float, measured: bool) -> None:
    labels = replace(LABELS, own=(1, 2, 3), thresholds=(bar,))
    (*_, row) = judged(labels, _scored(), np.arange(8) % 2, Rule(0.01), "these", _scored()).rows
    assert (row.before is not None, row.truth == "what the bundle said before") == (measured, measured)
