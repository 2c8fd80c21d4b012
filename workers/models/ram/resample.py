"""Relative position biases for windows of another size.

A table that was trained with windows of 7 x 7 tokens knows distances of up to 6 tokens; windows of 12 x 12 ask for up
to 11. The original programs stretch a table as BEiT's fine-tuning does (Bao et al., 2021): known distances move apart
in geometric progression, 1, 1 + q, 1 + q + q², …, so that near ones, which matter most, hardly move and the farthest
lands on the farthest that is wanted; a bicubic spline through them is then read at whole distances.

The spline of the originals is SciPy's `interp2d`, which SciPy no longer has. It is a linear map, the same along both
axes, so that here it is one small matrix; numbers agree to float32 rounding.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CLOSEST, WIDEST = 1.01, 1.5
"""Between these the ratio q of the progression is looked for."""
_EXACT = 1e-6
_CUBIC = 3

Numbers = NDArray[np.float64]


def window_of(table: Tensor) -> int | None:
    """The side of the windows that a bias table (rows, heads) is for; None: it is for no square window."""
    side = math.isqrt(table.shape[0])
    return (side + 1) // 2 if side % 2 and side * side == table.shape[0] else None


def resampled(table: Tensor, window: int) -> Tensor:
    """A bias table ((2w - 1)², heads) of some window w as one for `window`, in fp32; of that size, the table itself."""
    old = math.isqrt(table.shape[0])
    if old == 2 * window - 1:
        return table
    read = _readings(old // 2, window - 1)
    stretched = np.einsum("yi,ijh,xj->yxh", read, table.double().numpy().reshape(old, old, -1), read)
    return torch.from_numpy(stretched.reshape((2 * window - 1) ** 2, -1)).float()


def _readings(known: int, wanted: int) -> Numbers:
    """(2 wanted + 1, 2 known + 1): along one axis, what each known distance adds to each wanted one."""
    far = _places(known, wanted)
    places = np.concatenate((-far[::-1], [0.0], far))
    degree = _CUBIC if len(places) > _CUBIC else 1
    inner = places[(degree + 1) // 2 : -(degree + 1) // 2]  # a cubic one has no knot at the second place from each end
    knots = np.concatenate((places[:1].repeat(degree + 1), inner, places[-1:].repeat(degree + 1)))
    whole = np.arange(-wanted, wanted + 1).clip(places[0], places[-1])
    known_at, read_at = _splines(places, knots, degree), _splines(whole, knots, degree)
    return np.linalg.solve(known_at.T, read_at.T).T.astype(np.float64)


def _places(known: int, wanted: int) -> Numbers:
    """Where distances 1, 2, … `known` move, so that the last lands on `wanted` where a ratio in bounds does it."""
    low, high = CLOSEST, WIDEST
    while high - low > _EXACT:
        ratio = (low + high) / 2
        low, high = (low, ratio) if (ratio**known - 1) / (ratio - 1) > wanted else (ratio, high)
    return np.cumsum(ratio ** np.arange(known))


def _splines(x: Numbers, knots: Numbers, degree: int) -> Numbers:
    """(places, splines): every B-spline over these knots at each x, by the recursion of Cox and de Boor."""
    x = x[:, None]
    last = (x == knots[-1]) & (knots[:-1] < knots[1:]) & (knots[1:] == knots[-1])
    values: Numbers = (((knots[:-1] <= x) & (x < knots[1:])) | last).astype(np.float64)
    for d in range(1, degree + 1):
        rise, fall = knots[d:-1] - knots[: -d - 1], knots[d + 1 :] - knots[1:-d]
        rising = np.divide(x - knots[: -d - 1], rise, out=np.zeros_like(values[:, 1:]), where=rise > 0)
        falling = np.divide(knots[d + 1 :] - x, fall, out=np.zeros_like(values[:, 1:]), where=fall > 0)
        values = rising * values[:, :-1] + falling * values[:, 1:]
    return values
