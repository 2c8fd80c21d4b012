"""Average precision, precision and recall as in the papers; thresholds chosen by them.

Numbers are computed for each class and then averaged over classes, so rare and common classes have the same weight. An
image with weight 0 for a class (unknown) does not count for it. A class without images has NaN and is not averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.printable import counted

Floats = NDArray[np.float64]
Scores = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers of each class, (classes,) each.

    Args:
        precision, recall, f1: at the thresholds.
    """

    positives: NDArray[np.int64]
    ap: Floats
    precision: Floats
    recall: Floats
    f1: Floats

    def mean(self) -> Summary:
        """Means over the classes that can be measured."""
        precision, recall = _mean(self.precision), _mean(self.recall)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
        return Summary(_mean(self.ap), precision, recall, f1, int((self.positives > 0).sum()), len(self.ap))


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over classes, 0..1.

    Args:
        measured: classes that at least one image has.
    """

    map: float
    precision: float
    recall: float
    f1: float
    measured: int
    classes: int


def table(scores: Scores, targets: Scores, thresholds: Scores | float, weights: Scores | None = None) -> Table:
    """Metrics of each class from scores and 0/1 targets.

    (images, classes) each. A score at its threshold counts as above it.
    """
    positives = (targets if weights is None else targets * weights).sum(0, dtype=np.float64).astype(np.int64)
    bars = np.broadcast_to(np.asarray(thresholds).astype(scores.dtype), scores.shape[1:])
    ap, precision, recall = np.full((3, scores.shape[1]), np.nan)
    for label in np.flatnonzero(positives):
        known = slice(None) if weights is None else weights[:, label] > 0
        has, score = targets[known, label] > 0, scores[known, label]
        ap[label] = average_precision(score, has)
        taken = score >= bars[label]
        precision[label], recall[label] = (taken & has).sum() / (np.array([taken.sum(), has.sum()]) + 1e-9)
    with np.errstate(invalid="ignore"):
        f1 = np.where(precision + recall > 0, 2 * precision * recall / (precision + recall), precision)
    return Table(positives, ap, precision, recall, f1)


def average_precision(scores: Scores, has: NDArray[np.bool_]) -> float:
    """Average precision of a class; ties stay in order."""
    hits = has[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / (hits.sum() + 1e-8))


@dataclass(frozen=True, slots=True)
class Curve:
    """One class at every falling threshold.

    Args:
        scores: distinct scores, falling.
        thresholds: halfway to the next lower score; the last is half of the lowest score.
        taken, hits: number of images with at least this score, by their weights, and of them with the label.
    """

    scores: Floats
    thresholds: Floats
    taken: Floats
    hits: Floats
    precision: Floats
    recall: Floats
    f1: Floats


def curve(scores: Scores, has: NDArray[np.bool_], weights: Scores | None = None) -> Curve:
    """The curve of one class with at least one image."""
    order = np.argsort(-scores, kind="stable")
    ranked, counts = scores[order].astype(np.float64), np.ones(len(order)) if weights is None else weights[order]
    sums = np.cumsum(counts, dtype=np.float64), np.cumsum(counts * has[order], dtype=np.float64)
    last = np.append(ranked[1:] != ranked[:-1], True)  # of a row of equal scores
    falling, taken, found, all_ = ranked[last], sums[0][last], sums[1][last], float(sums[1][-1])
    between = (falling + np.append(falling[1:], 0.0)) / 2
    return Curve(falling, between, taken, found, found / taken, found / max(all_, 1), 2 * found / (taken + all_))


def _mean(values: Floats) -> float:
    measured = values[~np.isnan(values)]
    return float(measured.mean()) if len(measured) else float("nan")


OFF = 1.0
"""No score is greater: a label with this threshold is never shown."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A label's chosen threshold.

    Args:
        value: the tag is shown when its score is greater.
        why: the reason for no choice; empty for a chosen threshold.
    """

    value: float
    positives: int
    why: str = ""


Rule = Callable[[Curve], float | None]
"""Chooses a threshold; None: no threshold is good enough."""

_BLUR = 0.6
"""Measured on photographs: 0.5 to 1 are alike, 0 is worse."""
_CELLS = 200
"""Of log-odds, from the lowest to the highest."""


def best_f1(points: Curve) -> float:
    """The threshold with the best F1, of a smoothed curve.

    With few images the best point of the raw curve is luck. So each image's log-odds is blurred by a logistic
    distribution. Its scale is a share of the standard deviation. The share falls with the third root of the number of
    positives, as the error of a best threshold does (Kim and Pollard, 1990).
    """
    odds = np.log(points.scores.clip(1e-7, 1) / (1 - points.scores).clip(1e-7, 1))
    counts = [np.diff(each, prepend=0) for each in (points.taken, points.hits)]
    scale = _BLUR / np.cbrt(points.hits[-1]) * float(np.sqrt(np.cov(odds, aweights=counts[0], ddof=0)))
    if not scale > 0:
        return float(points.thresholds[points.f1.argmax()])
    edges = np.linspace(odds[-1], odds[0], _CELLS + 1)
    above = (1 - np.tanh(np.arange(1 - _CELLS, _CELLS) * (edges[1] - edges[0]) / scale / 2)) / 2
    taken, hits = (
        np.convolve(np.histogram(odds, edges, weights=each)[0], above)[_CELLS - 1 : 2 * _CELLS - 1] for each in counts
    )
    place = int((hits / (taken + points.hits[-1])).argmax())
    return float(1 / (1 + np.exp(-(edges[place] + edges[place + 1]) / 2)))


def precision_floor(least: float) -> Rule:
    """The threshold with the best recall at this precision."""

    def rule(points: Curve) -> float | None:
        good = np.flatnonzero(points.precision >= least)
        return float(points.thresholds[good[-1]]) if len(good) else None

    return rule


def choose(
    scores: Scores,
    targets: Scores,
    rule: Rule,
    *,
    weights: Scores | None = None,
    least_positives: int = 5,
    otherwise: float = OFF,
) -> list[Threshold]:
    """A threshold for each class of (images, classes) scores against 0/1 targets.

    Args:
        weights: how many images each one stands for; 0 where it is not known whether it has the label.
        least_positives: a label with fewer images gets `otherwise`.
        otherwise: the threshold without a choice.
    """
    chosen = []
    for label in range(scores.shape[1]):
        weight = np.ones(len(scores)) if weights is None else weights[:, label]
        known = weight > 0
        has = targets[known, label] > 0
        chosen.append(_one(scores[known, label], has, weight[known], rule, least_positives, otherwise))
    return chosen


def _one(
    scores: Scores, has: NDArray[np.bool_], weights: Scores, rule: Rule, least: int, otherwise: float
) -> Threshold:
    positives = int(has.sum())
    if positives < max(least, 1):
        return Threshold(otherwise, positives, why=f"{counted(positives, 'image')} with it, and {least} wanted")
    if positives == len(has):
        return Threshold(otherwise, positives, why="no image without it")
    points = curve(scores, has, weights)
    value = rule(points)
    if value is None:
        return Threshold(otherwise, positives, why="no threshold is good enough")
    return Threshold(min(max(value, 0.0), OFF), positives)
