"""Calibrates labels by examples: Platt's two numbers, a threshold, and their quality on unseen images.

Platt, "Probabilistic outputs for support vector machines" (1999): the score of a label is sigmoid(a·z + b), z the
model's own logit. People label as many images with a thing as without it, so the share of a label in the stream
is put back: into b, and into the weights by which precision and recall count.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas.printable import counted

LEAST_IMAGES: Final = 100
LEAST_POSITIVES: Final = 10
DEFAULT_SHARE: Final = 0.01
"""The share of a label without one."""
_FOLDS: Final = 5
_RIDGE: Final = 0.01
"""On the slope over standardised logits: separable examples would make it grow without end."""
_STEPS: Final = 50

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Real = TypeVar("Real", np.float32, np.float64)


class Line(NamedTuple):
    """score = sigmoid(a·z + b)."""

    a: float
    b: float

    def scores(self, z: Floats) -> Floats:
        """Scores of logits, any shape."""
        return sigmoid(self.a * z + self.b)


PLAIN: Final = Line(1.0, 0.0)


class Quality(NamedTuple):
    """Of one label's tags, in the stream: 0 to 1; precision is NaN where no image gets the tag."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Their harmonic mean; 0 without a tag."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total > 0 else 0.0


class Calibrated(NamedTuple):
    """One label's calibration.

    Args:
        refused: why the label was not calibrated; empty: it was.
    """

    positives: int
    negatives: int
    refused: str = ""
    line: Line = PLAIN
    threshold: float = 0.5
    quality: Quality = Quality(np.nan, np.nan)


def calibrate(z: Floats, shown: Bools, share: float, *, least_precision: float | None = None) -> Calibrated:
    """Calibrate one label.

    Args:
        z: (n,) its logits.
        shown: (n,) whether the image shows it.
        share: of the stream's images that show it.
        least_precision: the lowest threshold with this precision; None: the threshold of the best F1.
    """
    positives = int(shown.sum())
    negatives = len(shown) - positives
    few = positives if positives < LEAST_POSITIVES else negatives
    if few < LEAST_POSITIVES:
        kind = "with" if few is positives else "without"
        return Calibrated(positives, negatives, f"{counted(few, 'image')} {kind} it, and {LEAST_POSITIVES} are needed")
    line = platt(z, shown, share)
    if line.a <= 0:
        return Calibrated(positives, negatives, "its score is no higher where it is shown: describe it in other words")
    threshold = threshold_of(line.scores(z), shown, share, least_precision)
    told = np.empty(len(z), np.bool_)
    for fold in folds(shown):
        rest = ~fold
        other = platt(z[rest], shown[rest], share)
        told[fold] = other.scores(z[fold]) > threshold_of(other.scores(z[rest]), shown[rest], share, least_precision)
    return Calibrated(positives, negatives, "", line, threshold, quality_of(told, shown, share))


def platt(z: Floats, shown: Bools, share: float) -> Line:
    """Fit a and b by Newton's method, and put the share back.

    Args:
        z: (n,), at least one logit of each kind.
    """
    n, positives = len(z), int(shown.sum())
    negatives = n - positives
    target = np.where(shown, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    mean, spread = float(z.mean()), float(z.std()) or 1.0
    x = (z - mean) / spread
    at = np.array([0.0, np.log((positives + 1) / (negatives + 1))])
    loss = _loss(at, x, target)
    for _ in range(_STEPS):
        p = sigmoid(at[0] * x + at[1])
        gradient = np.array([np.dot(p - target, x) + _RIDGE * at[0], (p - target).sum()])
        if np.abs(gradient).max() < 1e-9 * n:
            break
        w = p * (1 - p)
        cross = np.dot(w, x)
        hessian = np.array([[np.dot(w * x, x) + _RIDGE, cross], [cross, w.sum() + 1e-12]])
        step = np.linalg.solve(hessian, gradient)
        while (found := _loss(at - step, x, target)) > loss + 1e-12 and np.abs(step).max() > 1e-12:
            step /= 2
        at, loss = at - step, found
    a = float(at[0]) / spread
    return Line(a, float(at[1]) - a * mean + _log_odds(share) - _log_odds(positives / n))


def threshold_of(scores: Floats, shown: Bools, share: float, least_precision: float | None = None) -> float:
    """The threshold of the best F1, or the lowest of a precision; 1 if no threshold reaches it.

    It lies halfway between two scores.
    """
    order = np.argsort(-scores, kind="stable")
    falling, weights = scores[order], stream_weights(shown, share)[order]
    right = np.cumsum(weights * shown[order])
    all_told = np.cumsum(weights)
    precision, recall = right / all_told, right / right[-1]
    last = np.append(falling[:-1] > falling[1:], True)  # a threshold can't part equal scores
    good = 2 * precision * recall / (precision + recall + 1e-300)
    if least_precision is not None:
        good = np.where(precision >= least_precision, recall, -1.0)
    best = int(np.argmax(np.where(last, good, -1.0)))
    if good[best] < 0 or right[best] == 0:
        return 1.0
    below = falling[best + 1] if best + 1 < len(falling) else 0.0
    return float((falling[best] + below) / 2)


def quality_of(told: Bools, shown: Bools, share: float) -> Quality:
    """Precision and recall in a stream with this share: of (n,) tags given, and (n,) shown."""
    weights = stream_weights(shown, share)
    right, all_told = float(weights[told & shown].sum()), float(weights[told].sum())
    return Quality(right / all_told if all_told else np.nan, right / share)


def folds(shown: Bools) -> list[Bools]:
    """Disjoint fifths of the examples, each with its part of both kinds: (n,) masks."""
    place = np.empty(len(shown), np.int64)
    for kind in (shown, ~shown):
        place[kind] = np.arange(int(kind.sum())) % _FOLDS
    return [place == fold for fold in range(_FOLDS)]


def stream_weights(shown: Bools, share: float) -> Floats:
    """Weights of examples in a stream with this share; together 1."""
    positives = int(shown.sum())
    return np.where(shown, share / max(positives, 1), (1 - share) / max(len(shown) - positives, 1))


def sigmoid(x: NDArray[Real]) -> NDArray[Real]:
    """Never above 1, without overflow."""
    small = np.exp(-np.abs(x))
    scores: NDArray[Real] = np.where(x >= 0, 1 / (1 + small), small / (1 + small))
    return scores


def _log_odds(share: float) -> float:
    return float(np.log(share / (1 - share)))


def _loss(at: Floats, x: Floats, target: Floats) -> float:
    value = at[0] * x + at[1]
    return float((np.logaddexp(0, value) - target * value).sum() + _RIDGE / 2 * at[0] ** 2)
