"""Precision of tags on a stream where their label is rare.

Of a stream with a share s of images with the label, a classifier that finds a part r of these and tags a part f of the
others has the precision s·r / (s·r + (1 - s)·f). A training set gives r and f; the share is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_OUTSIDE = 0.05
"""Part of the intervals that may miss, half of it on each side."""
_DRAWS = 4_000


@dataclass(frozen=True, slots=True)
class Promise:
    """A label's precision at the assumed share; NaN where nothing measures it.

    Args:
        low, high: the 95 % interval of `precision`.
        recall: part of the label's images that is tagged.
        negatives: images of none of the labels, not one of them tagged, that show the wanted precision.
    """

    precision: float
    low: float
    high: float
    recall: float
    negatives: int

    @property
    def f1(self) -> float:
        return 2 * self.precision * self.recall / max(self.precision + self.recall, 1e-9)


def measured_in(closed: bool, share: float) -> str:
    """A sentence on where the numbers hold."""
    if closed:
        return (
            "no image shows none of the labels: numbers hold among these classes only; give some in a folder none "
            "beside the tags', or with --negatives"
        )
    return f"thresholds and precision are for a stream where {share:.3g} of the images have a label (--share)"


def of_none(targets: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Images that are known to have none of the labels: (images, labels), true at each that they are known to lack."""
    lacks: NDArray[np.bool_] = (known > 0) & ~((targets > 0) & (known > 0)).any(axis=1, keepdims=True)
    return lacks


def stream_weights(targets: NDArray[np.float32], known: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Images of a stream that each image stands for, (images, labels).

    An image with the label stands for one, and an unknown one for none. Each of the labels has the share, independently
    of the others. So (1 - share)^(labels - 1) of the images without the label have no other label either: the images of
    none stand for these, if there are any, and images of other labels for the rest, however many each label has.
    """
    has, none = (targets > 0) & (known > 0), of_none(targets, known)
    rarity = (has / np.maximum(has.sum(axis=0), 1)).sum(axis=1, keepdims=True)
    others = ((known > 0) & ~has & ~none) * rarity
    sums = [each.sum(axis=0) for each in (others, none)]
    alone = np.where(sums[1] == 0, 0.0, np.where(sums[0] == 0, 1.0, (1 - share) ** (targets.shape[1] - 1)))
    without = has.sum(axis=0) * (1 - share) / share
    of_others, of_none_ = (
        without * part / np.maximum(each, 1e-12) for part, each in zip((1 - alone, alone), sums, strict=True)
    )
    weights: NDArray[np.float32] = (has + others * of_others + none * of_none_).astype(np.float32)
    return weights


def promises(
    taken: NDArray[np.bool_], targets: NDArray[np.float32], weights: NDArray[np.float32], share: float, wanted: float
) -> Iterator[Promise]:
    """Of each label; (images, labels) each.

    Args:
        taken: where a label is tagged, at thresholds chosen without the image.
    """
    for label in range(taken.shape[1]):
        known = weights[:, label] > 0
        has, shown, weight = targets[known, label] > 0, taken[known, label], weights[known, label].astype(np.float64)
        if not has.any() or has.all():
            yield Promise(math.nan, math.nan, math.nan, math.nan, 0)
            continue
        parts = weight[~has] / weight[~has].sum()
        wrong, hits, count = parts * shown[~has], int(shown[has].sum()), int(has.sum())
        low, high = interval(hits, count, wrong, float(parts.max()), share)
        recall = hits / count
        yield Promise(_precision(recall, wrong.sum(), share), low, high, recall, negatives_for(wanted, recall, share))


def interval(hits: int, count: int, wrong: Floats, largest: float, share: float) -> tuple[float, float]:
    """The 95 % interval of the precision.

    Bounds of the two parts are drawn from their confidence distributions and put into the formula ("melding": Fay,
    Proschan and Brittain, Biometrics 71, 2015). Recall has the exact ones of a binomial (Clopper and Pearson, 1934),
    the weighted part of other images the gamma ones of Fay and Feuer (Statistics in Medicine 16, 1997), exact for equal
    weights and conservative for others. Zero of n tagged thus means up to 3.7 / n.

    Args:
        hits, count: tagged and all images with the label.
        wrong: of each image without it, its weight if it is tagged, else 0.
        largest: the largest weight of any; all weights together are 1.
    """
    random, total, squares = np.random.default_rng(0), float(wrong.sum()), float(np.square(wrong).sum())
    more, most = total + largest, squares + largest**2
    false = [random.gamma(more**2 / most, most / more, _DRAWS), np.zeros(_DRAWS)]
    if total > 0:
        false[1] = random.gamma(total**2 / squares, squares / total, _DRAWS)
    found = [np.zeros(_DRAWS), np.ones(_DRAWS)]
    if hits > 0:
        found[0] = random.beta(hits, count - hits + 1, _DRAWS)
    if hits < count:
        found[1] = random.beta(hits + 1, count - hits, _DRAWS)
    low, high = (_precision(r, np.minimum(f, 1), share) for r, f in zip(found, false, strict=True))
    return float(np.quantile(low, _OUTSIDE / 2)), float(np.quantile(high, 1 - _OUTSIDE / 2))


def negatives_for(wanted: float, recall: float, share: float) -> int:
    """Untagged negatives that show a precision with 95 % confidence.

    By the "rule of three": 0 of n tagged means up to 3 / n.
    """
    least = share * recall * (1 - wanted) / ((1 - share) * wanted)
    return math.ceil(3 / least) if least > 0 else 0


def _precision(recall: Floats | float, false: Floats | float, share: float) -> Any:
    right = share * recall
    return right / np.maximum(right + (1 - share) * false, 1e-12)
