"""Calibration against closed checks: Platt's two numbers, thresholds by trying all, cross-validation by hand."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from workers.models.calibration import (
    LEAST_POSITIVES,
    PLAIN,
    Bools,
    Floats,
    Line,
    calibrate,
    folds,
    platt,
    quality_of,
    sigmoid,
    threshold_of,
)

LOGITS = st.integers(20, 60).flatmap(lambda n: arrays(np.float64, n, elements=st.floats(-30, 10, width=32)))
SHARE = st.sampled_from((0.001, 0.02, 0.5))
RNG = np.random.default_rng(7)


def alternating(z: Floats) -> Bools:
    shown: Bools = np.arange(len(z)) % 3 == 0
    return shown


def drawn(count: int, line: Line, seed: int = 1) -> tuple[Floats, Bools]:
    """Logits, and whether each is positive with the probability that this line gives it."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-6, 3, count)
    return z, rng.random(count) < line.scores(z)


def test_the_numbers_that_made_the_examples_are_found() -> None:
    truth = Line(0.8, 3.5)
    z, shown = drawn(40_000, truth)
    found = platt(z, shown, float(shown.mean()))
    assert found == pytest.approx(truth, abs=0.1)


@given(z=LOGITS, move=st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)))
def test_no_other_line_fits_platts_targets_better(z: Floats, move: tuple[float, float]) -> None:
    shown = alternating(z)
    spread = float(z.std())
    assume(spread > 0.1)
    positives, negatives = int(shown.sum()), int((~shown).sum())
    target = np.where(shown, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(a: float, b: float) -> float:
        logits = a * z + b
        return float((np.logaddexp(0, logits) - target * logits).sum() + 0.005 * (a * spread) ** 2)

    a, b = platt(z, shown, float(shown.mean()))
    assert loss(a, b) <= loss(a + move[0] / spread, b + move[1]) + 1e-6


@given(z=LOGITS, factor=st.floats(0.1, 10), offset=st.floats(-20, 20), share=SHARE)
def test_scores_do_not_depend_on_the_unit_of_the_logits(z: Floats, factor: float, offset: float, share: float) -> None:
    assume(z.std() > 0.1)
    shown = alternating(z)
    moved = factor * z + offset
    np.testing.assert_allclose(platt(moved, shown, share).scores(moved), platt(z, shown, share).scores(z), atol=1e-5)


@given(z=LOGITS, share=SHARE)
def test_the_share_moves_the_log_odds_and_nothing_else(z: Floats, share: float) -> None:
    shown = alternating(z)
    of_half, of_share = platt(z, shown, 0.5), platt(z, shown, share)
    assert of_share.a == of_half.a
    assert of_share.b - of_half.b == pytest.approx(np.log(share / (1 - share)))


def test_scores_are_the_share_of_images_that_show_it_in_a_stream_with_other_shares() -> None:
    z, shown = drawn(200_000, Line(1.0, 2.0))
    share = float(shown.mean())
    positives, negatives = np.flatnonzero(shown), np.flatnonzero(~shown)
    chosen = np.concatenate((positives[:5000], negatives[:5000]))  # people label half and half
    scores = platt(z[chosen], shown[chosen], share).scores(z)
    assert scores.mean() == pytest.approx(share, rel=0.05)
    naive = platt(z[chosen], shown[chosen], 0.5).scores(z)
    assert naive.mean() > 2 * share


def test_separable_examples_have_a_slope_that_ends() -> None:
    z = np.concatenate((np.linspace(-9, -5, 50), np.linspace(1, 3, 50)))
    found = platt(z, z > 0, 0.5)
    assert 0 < found.a < 10
    assert np.isfinite(found.b)


@given(
    scores=arrays(np.float64, 40, elements=st.sampled_from(np.linspace(0.01, 0.99, 15).tolist())),
    shown=arrays(np.bool_, 40),
    share=SHARE,
    least=st.sampled_from((None, 0.3, 0.9)),
)
def test_no_other_threshold_is_better(scores: Floats, shown: Bools, share: float, least: float | None) -> None:
    assume(0 < shown.sum() < len(shown))

    def value(threshold: float) -> float:
        quality = quality_of(scores > threshold, shown, share)
        if least is None:
            return quality.f1
        return quality.recall if quality.precision >= least else 0.0

    best = max(value(threshold) for threshold in (0.0, *np.unique(scores)))
    found = threshold_of(scores, shown, share, least)
    assert 0 <= found <= 1
    assert value(found) == pytest.approx(best)


def test_precision_and_recall_hold_for_the_stream() -> None:
    shown = np.arange(100) < 50
    told = (np.arange(100) < 40) | (np.arange(100) >= 95)
    precision, recall = quality_of(told, shown, 0.1)
    assert recall == pytest.approx(0.8)
    assert precision == pytest.approx(0.08 / (0.08 + 0.9 * 0.1))
    assert np.isnan(quality_of(np.zeros(100, np.bool_), shown, 0.1).precision)


@given(shown=arrays(np.bool_, st.integers(10, 80)))
def test_folds_part_the_examples_and_each_kind_among_them(shown: Bools) -> None:
    made = np.stack(folds(shown))
    assert (made.sum(0) == 1).all()
    for kind in (shown, ~shown):
        counts = (made & kind).sum(1)
        assert counts.max() - counts.min() <= 1


def test_figures_of_unseen_images_are_worse_than_of_seen_ones() -> None:
    z, shown = RNG.normal(0, 1, 60), RNG.random(60) < 0.5  # nothing to be learnt
    z = z + 0.1 * shown
    found = calibrate(z, shown, 0.5)
    seen = quality_of(found.line.scores(z) > found.threshold, shown, 0.5)
    assert found.quality.f1 < seen.f1


@pytest.mark.parametrize(("positives", "negatives"), [(LEAST_POSITIVES - 1, 200), (200, 3), (0, 150)])
def test_a_label_with_few_examples_keeps_its_threshold(positives: int, negatives: int) -> None:
    shown = np.arange(positives + negatives) < positives
    found = calibrate(np.where(shown, 1.0, -1.0), shown, 0.1)
    assert (found.line, found.positives, found.negatives) == (PLAIN, positives, negatives)
    assert str(min(positives, negatives)) in found.refused


def test_a_label_with_meaningless_scores_keeps_its_threshold() -> None:
    shown = np.arange(100) < 50
    assert "other words" in calibrate(np.where(shown, -1.0, 1.0), shown, 0.1).refused


def test_a_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([-800.0, 0.0, 800.0])).tolist() == [0.0, 0.5, 1.0]
