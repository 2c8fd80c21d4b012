"""Quadrilaterals of text: found in the detector's map, joined into lines, sorted for reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Quads: TypeAlias = NDArray[np.float64]
"""(n, 4, 2): x and y of four corners, clockwise; of lines, first where the text begins at the top."""
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
_CORNERS: Final = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])

_GAP, _OFF = 0.5, 0.3
"""Between two pieces of a line, and of a middle from the other's line, at most, in their height: an em is 0.7 of it."""
_ALIKE: Final = 0.6
"""The lower piece's height, at least, in the other's."""


def text_boxes(probabilities: NDArray[np.float32]) -> Quads:
    """Return a rectangle around each line of text, upper left corner first. The map is (height, width)."""
    found = [box for region in _regions(probabilities) if (box := _rectangle(*region)) is not None]
    return np.stack(found) if found else np.empty((0, 4, 2))


def _regions(probabilities: NDArray[np.float32]) -> Iterator[tuple[Ints, Ints, Ints, float]]:
    """Yield each connected region: rows, first and last column of each, and sum of probabilities."""
    core = probabilities > _TEXT
    mask = core.copy()
    mask[1:] |= core[:-1]
    mask[:, 1:] |= mask[:, :-1].copy()
    width = mask.shape[1]
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, starts), ends = np.nonzero(steps == 1), np.nonzero(steps == -1)[1]
    if not rows.size:
        return
    labels = joined(len(rows), *_touching(rows, starts, ends, width))
    order = np.argsort(labels, kind="stable")
    rows, starts, ends = rows[order], starts[order], ends[order]
    bounds = np.append(np.flatnonzero(np.diff(labels[order], prepend=-1)), len(rows))
    total = np.append(0.0, np.cumsum(probabilities, dtype=np.float64))
    masses = np.add.reduceat(total[rows * width + ends] - total[rows * width + starts], bounds[:-1])
    for region in np.argsort(-masses, kind="stable")[:_MOST]:
        part = slice(bounds[region], bounds[region + 1])
        ys, first = np.unique(rows[part], return_index=True)
        left, right = np.minimum.reduceat(starts[part], first), np.maximum.reduceat(ends[part], first) - 1
        yield ys, left, right, float(masses[region])


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


def _rectangle(ys: Ints, left: Ints, right: Ints, mass: float) -> Quads | None:
    """Four corners of the least rectangle around a region, grown; None if it is too thin or too unsure."""
    if len(ys) <= _THINNEST or right.max() - left.min() < _THINNEST:
        return None
    hull = np.array([*_convex(left, ys), *_convex(right[::-1], ys[::-1])], float)
    edges = np.diff(hull, axis=0, append=hull[:1])
    lengths = np.hypot(*edges.T)
    along = edges[lengths > 0] / lengths[lengths > 0, None]
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    spans = np.stack([hull @ along.T, hull @ across.T])
    low, high = spans.min(1), spans.max(1)
    extents = high - low
    least = int(np.argmin(extents[0] * extents[1]))
    width, height = extents[:, least]
    if mass < _SURE * (width + 1) * (height + 1):
        return None
    axes = np.stack([along[least], across[least]])
    centre = (low[:, least] + high[:, least]) / 2 @ axes + 0.5
    halves = extents[:, least] / 2 + width * height * _GROWN / (2 * (width + height))
    corners: Quads = centre + _CORNERS * halves @ axes
    steps = np.roll(corners, -1, axis=0) - corners
    return np.roll(corners, -int(np.argmax(steps[:, 0] - np.abs(steps[:, 1]))), axis=0)


def _convex(xs: Ints, ys: Ints) -> list[tuple[int, int]]:
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


def sides(quads: Quads) -> tuple[Floats, Floats]:
    """Return length and height of each line, in pixels."""
    steps = np.linalg.norm(np.roll(quads, -1, axis=1) - quads, axis=2)
    return np.maximum(steps[:, 0], steps[:, 2]), np.maximum(steps[:, 1], steps[:, 3])


def whole_lines(quads: Quads) -> Quads:
    """Join pieces that stand side by side on one line: wide blanks, or letters of a large sign. A thousand at most."""
    lengths, heights = sides(quads)
    along = (quads[:, 1] - quads[:, 0]) / lengths[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    step = quads.mean(1)[None] - quads.mean(1)[:, None]
    ahead, aside = (np.einsum("ijk,ik->ij", step, axis) for axis in (along, across))
    height = np.minimum(heights[:, None], heights)
    gap = ahead - (lengths[:, None] + lengths) / 2
    fit = (ahead >= 0) & (gap < _GAP * height) & (np.abs(aside) < _OFF * height) & (along @ along.T > 0.9)
    fit &= height > _ALIKE * np.maximum(heights[:, None], heights)
    labels = joined(len(quads), *np.nonzero(fit))
    return np.array([_around(quads[labels == label]) for label in np.unique(labels)]).reshape(-1, 4, 2)


def _around(pieces: Quads) -> Floats:
    """The rectangle around pieces of a line, along the longest of them."""
    if len(pieces) == 1:
        return np.asarray(pieces[0])
    longest = pieces[np.argmax(sides(pieces)[0])]
    along = (longest[1] - longest[0]) / np.linalg.norm(longest[1] - longest[0])
    axes = np.stack([along, (-along[1], along[0])])
    spans = pieces.reshape(-1, 2) @ axes.T
    ends = np.stack([spans.min(0), spans.max(0)])
    return np.asarray(np.take_along_axis(ends, (_CORNERS + 1) // 2, axis=0) @ axes)


def reading_order(quads: Quads) -> list[int]:
    """Return the lines' indices: columns one after the other, each from its top.

    A line comes before those below it that share columns of pixels with it, and before those to its right, unless a
    line between the two shares columns with both (Breuel, "High performance document layout analysis", 2003). Time and
    memory grow as the third power of their number: some hundreds at most.
    """
    along = (quads[:, 1] - quads[:, 0]).sum(0)
    xs, ys = quads @ along, quads @ np.array([-along[1], along[0]])
    middle = ys.mean(1)
    # Boxes are larger than the letters: a part of them is no line's alone.
    margin = np.minimum(np.ptp(ys, axis=1), np.ptp(xs, axis=1)) / 3
    left, right = xs.min(1) + margin, xs.max(1) - margin
    shared = (left[:, None] < right) & (left < right[:, None])
    above = middle[:, None] < middle
    between = above[:, :, None] & above[None]
    between |= between.transpose(2, 1, 0)
    spanned = (between & shared[:, :, None] & shared[None]).any(1)
    return _sorted(shared & above | (right[:, None] <= left) & ~spanned, np.lexsort((middle, left)).tolist())


def _sorted(before: NDArray[np.bool_], usual: list[int]) -> list[int]:
    """All indices, each after those before it; where they form a circle, in the usual order."""
    done: list[int] = []
    seen: set[int] = set()

    def visit(index: int) -> None:
        seen.add(index)
        for earlier in usual:
            if before[earlier, index] and earlier not in seen:
                visit(earlier)
        done.append(index)

    for index in usual:
        if index not in seen:
            visit(index)
    return done
