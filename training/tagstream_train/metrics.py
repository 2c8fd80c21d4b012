"""Average precision, precision and recall as in the papers; thresholds chosen by them.

Everything is counted for each class alone and then averaged over classes, so a rare class counts as much as a common
one. Where a `weights` matrix says that a label is not known for an image (0), the image does not count for that class.
A class that no image has can't be measured: it is left out of every mean, and its numbers are NaN.
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
        positives: images that have the label.
        ap: average precision.
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
        measured = int((self.positives > 0).sum())
        return Summary(_mean(self.ap), precision, recall, _f1(precision, recall), measured, len(self.ap))


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over classes, 0..1.

    Args:
        measured: classes that at least one image has.
        classes: all.
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
    positives = _known(targets, weights).sum(0).astype(np.int64)
    bars = np.broadcast_to(np.asarray(thresholds).astype(scores.dtype), scores.shape[1:])
    ap, precision, recall = np.full((3, scores.shape[1]), np.nan)
    for label in np.flatnonzero(positives):
        known = slice(None) if weights is None else weights[:, label] > 0
        has, score = targets[known, label] > 0, scores[known, label]
        ap[label] = average_precision(score, has)
        precision[label], recall[label] = _precision_recall(score >= bars[label], has)
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
    """Precision and recall of one class at every falling threshold.

    Args:
        thresholds: halfway between one score and the next lower one, so that it does not matter whether a score at
            the threshold counts; the last is half of the lowest score.
    """

    thresholds: Floats
    precision: Floats
    recall: Floats

    @property
    def f1(self) -> Floats:
        both = self.precision + self.recall
        return np.where(both > 0, 2 * self.precision * self.recall / np.where(both > 0, both, 1), 0.0)


def curve(scores: Scores, has: NDArray[np.bool_]) -> Curve:
    """The curve of one class with at least one image."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order].astype(np.float64), np.cumsum(has[order])
    last = np.append(ranked[1:] != ranked[:-1], True)  # of a row of equal scores
    following = np.append(ranked[1:], 0.0)
    counts = np.arange(1, len(ranked) + 1)
    thresholds = ((ranked + following) / 2)[last]
    return Curve(thresholds, (hits / counts)[last], (hits / max(int(hits[-1]), 1))[last])


def _precision_recall(taken: NDArray[np.bool_], has: NDArray[np.bool_]) -> tuple[float, float]:
    hits = float((taken & has).sum())
    return hits / (float(taken.sum()) + 1e-9), hits / (float(has.sum()) + 1e-9)


def _known(targets: Scores, weights: Scores | None) -> Floats:
    known: Floats = np.asarray(targets if weights is None else targets * weights, np.float64)
    return known


def _mean(values: Floats) -> float:
    measured = values[~np.isnan(values)]
    return float(measured.mean()) if len(measured) else float("nan")


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


OFF = 1.0
"""No score is greater: a label with this threshold is never shown."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A label's chosen threshold.

    Args:
        value: the tag is shown when its score is greater.
        positives: images that had the label.
        precision, recall: at `value`, on the images that it was chosen on; NaN for one that was not chosen.
        why: why none could be chosen; empty where one was.
    """

    value: float
    positives: int
    precision: float = float("nan")
    recall: float = float("nan")
    why: str = ""


Rule = Callable[[Curve], int | None]
"""Chooses a point of a curve; None: there is none to choose."""


def best_f1(points: Curve) -> int | None:
    """The point with the best F1, at the highest threshold."""
    return int(points.f1.argmax())


def precision_floor(least: float) -> Rule:
    """The point with the best recall at this precision."""

    def rule(points: Curve) -> int | None:
        good = np.flatnonzero(points.precision >= least)
        return int(good[-1]) if len(good) else None

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
        weights: 0 where a label is not known for an image.
        least_positives: for a label that fewer images have, none is chosen.
        otherwise: the threshold where none was chosen.
    """
    chosen = []
    for label in range(scores.shape[1]):
        known = slice(None) if weights is None else weights[:, label] > 0
        chosen.append(_one(scores[known, label], targets[known, label] > 0, rule, least_positives, otherwise))
    return chosen


def _one(scores: Scores, has: NDArray[np.bool_], rule: Rule, least: int, otherwise: float) -> Threshold:
    positives = int(has.sum())
    if positives < max(least, 1):
        return Threshold(otherwise, positives, why=f"{counted(positives, 'image')} with it, and {least} wanted")
    if positives == len(has):
        return Threshold(otherwise, positives, why="no image without it")
    points = curve(scores, has)
    place = rule(points)
    if place is None:
        return Threshold(otherwise, positives, why="no threshold is good enough")
    value = min(max(float(points.thresholds[place]), 0.0), OFF)
    return Threshold(value, positives, float(points.precision[place]), float(points.recall[place]))
