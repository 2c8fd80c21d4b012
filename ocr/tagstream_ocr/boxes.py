"""Quadrilaterals of text in the detector's map of probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Quads: TypeAlias = NDArray[np.float64]
"""(n, 4, 2): x and y of four corners, clockwise."""
Ints: TypeAlias = NDArray[np.intp]
Floats: TypeAlias = NDArray[np.float64]

_TEXT: Final = 0.3
"""Probability above which a pixel counts as text."""
_SURE: Final = 0.5
"""A rectangle's mean probability, at least."""
_GROWN: Final = 1.6
"""The map shows the core of a line. A rectangle grows on all sides by this part of its area over its perimeter."""
_THINNEST: Final = 3
"""Rows and columns of a region, and one more where the mask grew."""
_MOST: Final = 1_000
"""Regions that are looked at, the largest first; each takes some 50 µs."""


def text_boxes(probabilities: NDArray[np.float32]) -> Quads:
    """Return a rectangle around each line of text, upper left corner first.

    Time and memory are bounded whatever the map shows.

    Args:
        probabilities: (height, width), whether a pixel belongs to text.
    """
    found = [box for points, mass in _regions(probabilities) if (box := _rectangle(points, mass)) is not None]
    return np.stack(found) if found else np.empty((0, 4, 2))


def _regions(probabilities: NDArray[np.float32]) -> Iterator[tuple[tuple[Ints, Ints, Ints], float]]:
    """Yield each connected region and the sum of its probabilities.

    A region is its rows, and the first and last column of each.
    """
    core = probabilities > _TEXT
    mask = core.copy()
    mask[1:] |= core[:-1]
    mask[:, 1:] |= mask[:, :-1].copy()
    rows, starts, ends = _runs(mask)
    if not rows.size:
        return
    labels = joined(len(rows), *_touching(rows, starts, ends, mask.shape[1]))
    order = np.argsort(labels, kind="stable")
    rows, starts, ends = rows[order], starts[order], ends[order]
    bounds = np.append(np.flatnonzero(np.diff(labels[order], prepend=-1)), len(rows))
    total = np.append(0.0, np.cumsum(probabilities, dtype=np.float64))
    width = mask.shape[1]
    masses = np.add.reduceat(total[rows * width + ends] - total[rows * width + starts], bounds[:-1])
    for region in np.argsort(-masses, kind="stable")[:_MOST]:
        part = slice(bounds[region], bounds[region + 1])
        ys, first = np.unique(rows[part], return_index=True)
        left = np.minimum.reduceat(starts[part], first)
        right = np.maximum.reduceat(ends[part], first) - 1
        yield (ys, left, right), float(masses[region])


def _runs(mask: NDArray[np.bool_]) -> tuple[Ints, Ints, Ints]:
    """Row, first and end column of each run of true pixels."""
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    return rows, starts, np.nonzero(steps == -1)[1]


def _touching(rows: Ints, starts: Ints, ends: Ints, width: int) -> tuple[Ints, Ints]:
    """Pairs of runs that touch, also by a corner, the upper first."""
    stride = width + 1
    first = np.searchsorted(rows * stride + ends, (rows + 1) * stride + starts, "left")
    last = np.searchsorted(rows * stride + starts, (rows + 1) * stride + ends, "right")
    counts = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(rows)), counts)
    offsets = np.arange(len(upper)) - np.repeat(np.cumsum(counts) - counts, counts)
    return upper, first[upper] + offsets


def joined(count: int, one: Ints, other: Ints) -> Ints:
    """Return for each of `count` things the smallest connected index."""
    labels = np.arange(count)
    while True:
        low = np.minimum(labels[one], labels[other])
        if (low == labels[one]).all() and (low == labels[other]).all():
            return labels
        np.minimum.at(labels, labels[one], low)
        np.minimum.at(labels, labels[other], low)
        while not np.array_equal(labels, nearer := labels[labels]):
            labels = nearer


def _rectangle(points: tuple[Ints, Ints, Ints], mass: float) -> Quads | None:
    """Four corners of the least rectangle around a region, grown; None if it is too thin or too unsure."""
    ys, left, right = points
    if len(ys) <= _THINNEST or right.max() - left.min() < _THINNEST:
        return None
    hull = np.array([*_convex(left, ys), *_convex(right[::-1], ys[::-1])], float)
    edges = np.diff(hull, axis=0, append=hull[:1])
    sizes = np.hypot(*edges.T)
    along = edges[sizes > 0] / sizes[sizes > 0, None]
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    spans = np.stack([hull @ along.T, hull @ across.T])
    low, high = spans.min(1), spans.max(1)
    sides = high - low
    least = int(np.argmin(sides[0] * sides[1]))
    width, height = sides[:, least]
    if mass < _SURE * (width + 1) * (height + 1):
        return None
    axes = np.stack([along[least], across[least]])
    centre = (low[:, least] + high[:, least]) / 2 @ axes + 0.5
    halves = sides[:, least] / 2 + width * height * _GROWN / (2 * (width + height))
    return _upper_left_first(centre + np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * halves @ axes)


def _convex(xs: Ints, ys: Ints) -> Sequence[tuple[int, int]]:
    """The corners of the convex hull on one side of a region."""
    kept: list[tuple[int, int]] = []
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        while len(kept) > 1:
            (x0, y0), (x1, y1) = kept[-2:]
            if (x1 - x0) * (y - y1) - (y1 - y0) * (x - x1) < 0:
                break
            kept.pop()
        kept.append((x, y))
    return kept


def _upper_left_first(corners: Quads) -> Quads:
    """The same corners, first the one where the upper side begins."""
    sides = np.roll(corners, -1, axis=0) - corners
    return np.roll(corners, -int(np.argmax(sides[:, 0] - np.abs(sides[:, 1]))), axis=0)
