"""Choose each label's threshold on held-out images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.printable import counted
from tagstream_train.metrics import Curve, Scores, curve

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
    points = curve(scores, has)
    place = rule(points)
    if place is None:
        return Threshold(otherwise, positives, why="no threshold is good enough")
    value = min(max(float(points.thresholds[place]), 0.0), OFF)
    return Threshold(value, positives, float(points.precision[place]), float(points.recall[place]))
