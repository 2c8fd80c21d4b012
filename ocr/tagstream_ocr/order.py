"""Joins the detector's pieces into lines and sorts them for reading."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tagstream_ocr.boxes import Floats, Quads, joined
from tagstream_ocr.crops import sides

_GAP = 0.5
"""Between two pieces of a line, at most, in their height: an em is 0.7 of it, and columns are farther apart."""
_OFF = 0.3
"""How far a piece's middle is from the other's line, at most, in their height."""
_ALIKE = 0.6
"""The lower piece's height, at least, in the other's."""


def whole_lines(quads: Quads) -> Quads:
    """Join pieces that stand side by side on one line: wide blanks, or letters of a large sign.

    Args:
        quads: (n, 4, 2), at most a thousand; the first corner is where the text begins at the top.
    """
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
    (left, top), (right, bottom) = spans.min(0), spans.max(0)
    around: Floats = np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) @ axes
    return around


def reading_order(quads: Quads) -> list[int]:
    """Return the lines' indices: columns one after the other, each from its top.

    A line comes before those below it that share columns of pixels with it, and before those to its right, unless a
    line between the two shares columns with both (Breuel, "High performance document layout analysis", 2003).

    Args:
        quads: (n, 4, 2), at most some hundreds: time and memory grow as their third power.
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
    for start in usual:
        path = [] if start in seen else [start]
        while path:
            seen.add(path[-1])
            earlier = next((index for index in usual if before[index, path[-1]] and index not in seen), None)
            if earlier is None:
                done.append(path.pop())
            else:
                path.append(earlier)
    return done
