"""Precision on a stream where labels are rare, from images that are not."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tagstream_train.fit.measures import Judged, Labels, Rule, Scored, judged, thresholds_of
from tagstream_train.fit.promise import interval, negatives_for, of_none, promises, stream_weights

Floats = NDArray[np.float32]
SHARE = 0.01
TARGETS = np.array([[1, 0]] * 4 + [[0, 1]] * 2 + [[0, 0]] * 10, np.float32)


def test_images_stand_for_a_stream_where_each_label_has_the_share() -> None:
    weights = stream_weights(TARGETS, np.ones_like(TARGETS), SHARE).astype(float)
    shares = weights / weights.sum(axis=0)
    assert shares[:4, 0].sum() == pytest.approx(SHARE)
    assert shares[:4, 1].sum() == pytest.approx((1 - SHARE) * SHARE)
    assert shares[6:, 0].sum() == pytest.approx((1 - SHARE) ** 2)
    assert (weights[:4, 0] == 1).all()


def test_other_labels_stand_for_equal_parts_however_many_images_they_have() -> None:
    targets = np.repeat(np.eye(4, 3, dtype=np.float32), (5, 2, 40, 30), axis=0)
    weights = stream_weights(targets, np.ones_like(targets), SHARE)[:, 0]
    assert weights[5:7].sum() == pytest.approx(weights[7:47].sum())
    assert weights[5:47].sum() / weights.sum() == pytest.approx((1 - SHARE) * (1 - (1 - SHARE) ** 2), rel=1e-5)


def test_an_unknown_label_stands_for_nothing_and_is_no_absence() -> None:
    known = np.ones_like(TARGETS)
    known[6:8, 0] = 0
    weights = stream_weights(TARGETS, known, SHARE)
    assert (weights[6:8, 0] == 0).all()
    assert weights[8:, 0].sum() == pytest.approx(stream_weights(TARGETS, np.ones_like(known), SHARE)[6:, 0].sum())
    assert of_none(TARGETS, known)[6:8].tolist() == [[False, True]] * 2


def test_no_wrong_tag_among_a_hundred_images_promises_no_more_than_the_rule_of_three() -> None:
    low, high = interval(1000, 1000, np.zeros(100), 0.01, SHARE)
    assert low == pytest.approx(SHARE / (SHARE + (1 - SHARE) * 0.0369), rel=0.05)
    assert high == 1
    enough = negatives_for(0.9, 1.0, SHARE)
    assert 1 / (1 + (1 - SHARE) / SHARE * 3 / enough) == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize(("recall", "false", "weighted"), [(0.8, 0.02, False), (0.6, 0.005, True), (0.95, 0.1, True)])
def test_the_interval_holds_in_95_of_100_draws(recall: float, false: float, weighted: bool) -> None:
    random, held, draws = np.random.default_rng(0), 0, 120
    weights = np.where(np.arange(550) < 50, 4.0, 1.0) if weighted else np.ones(550)
    weights /= weights.sum()
    truth = SHARE * recall / (SHARE * recall + (1 - SHARE) * false)
    for _ in range(draws):
        wrong = weights * (random.random(550) < false)
        low, high = interval(random.binomial(50, recall), 50, wrong, float(weights.max()), SHARE)
        held += low <= truth <= high
    assert held / draws >= 0.95


def _world(of_none_: int, seed: int = 0) -> tuple[Scored, NDArray[np.int64]]:
    """Two labels that know each other well; a tenth of the images of none looks like the first."""
    random = np.random.default_rng(seed)
    targets = np.zeros((100 + of_none_, 2), np.float32)
    targets[:50, 0], targets[50:100, 1] = 1, 1
    odds = np.where(targets > 0, 3.0, -3.0) + random.normal(size=targets.shape)
    odds[100 : 100 + of_none_ // 10, 0] += 5
    scores = (1 / (1 + np.exp(-odds))).astype(np.float32)
    return Scored(scores, targets, np.ones_like(targets)), np.arange(len(targets)) % 5


LABELS_ = Labels(("first", "second"), 0, (0, 1), ())


def _judged(of_none_: int) -> Judged:
    return judged(LABELS_, *_world(of_none_), Rule(SHARE), "")


def test_images_of_none_show_what_a_closed_world_hides() -> None:
    closed, opened = _judged(0), _judged(500)
    assert closed.closed
    assert not opened.closed
    assert opened.thresholds["first"].value > closed.thresholds["first"].value
    assert opened.promises["first"].high < opened.promises["second"].low
    assert closed.promises["first"].negatives > 0


def test_a_wanted_precision_holds_at_the_share() -> None:
    scored, folds = _world(3000)
    wanted = judged(LABELS_, scored, folds, Rule(SHARE, 0.6), "")
    kept = wanted.promises["second"]
    assert kept.low < 0.6 < kept.high
    assert thresholds_of(LABELS_, scored, Rule(0.1, 0.6))["second"].value < wanted.thresholds["second"].value


def test_a_label_that_nothing_measures_has_no_promise() -> None:
    scores = np.ones((4, 1), np.float32)
    (kept,) = promises(scores > 0, 0 * scores, scores, SHARE, 0.5)
    assert np.isnan([kept.precision, kept.low, kept.high, kept.recall]).all()


@pytest.mark.parametrize(("tagged", "raised"), [(0.01, False), (0.2, True)])
def test_drawn_images_raise_a_threshold_by_what_is_tagged_beyond_the_assumed_share(tagged: float, raised: bool) -> None:
    scored, _ = _world(0)
    before = thresholds_of(LABELS_, scored, Rule(SHARE))["first"].value
    drawn = np.full((1000, 2), 0.001, np.float32)
    drawn[: int(tagged * 1000)] = before + 0.01
    after = thresholds_of(LABELS_, scored, Rule(SHARE, drawn=drawn))["first"].value
    assert (after > before + 0.009) == raised
