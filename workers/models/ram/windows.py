"""Where tokens stand: the orders in which a Swin stage reads its grid, and which tokens may attend to which.

An order is a (tokens,) int64 tensor that holds, for each place, the row-major index of the token that stands there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def window_order(grid: int, window: int, shift: int) -> Tensor:
    """Window after window, row-major inside each, of a grid rolled up and left by `shift`."""
    tokens = torch.arange(grid * grid, device="cpu").view(grid, grid).roll((-shift, -shift), (0, 1))
    return _cut(tokens, window).flatten()


def change_of_order(old: Tensor, new: Tensor) -> Tensor:
    """The places to read from: `x[:, change_of_order(old, new)]` has the new order when x has the old one."""
    return torch.argsort(old)[new]


def merge_order(grid: int, coarse: Tensor) -> Tensor:
    """For each token of the half grid, standing in the order `coarse`, the four tokens it is made of, row-major.

    Of each two by two patch: top left, bottom left, top right, bottom right.
    """
    half = grid // 2
    top_left = 2 * grid * (coarse // half) + 2 * (coarse % half)
    return torch.stack((top_left, top_left + grid, top_left + 1, top_left + grid + 1), dim=1).flatten()


def relative_index(window: int) -> Tensor:
    """(window², window²) row of the bias table for each query and key: by their distance in y, then in x."""
    y, x = (axis.flatten() for axis in torch.meshgrid(*(torch.arange(window, device="cpu"),) * 2, indexing="ij"))
    dy = y[:, None] - y[None, :] + window - 1
    dx = x[:, None] - x[None, :] + window - 1
    return dy * (2 * window - 1) + dx


def shift_mask(grid: int, window: int, shift: int) -> Tensor:
    """(windows, window², window²) float32: 0 where two tokens of a rolled grid were adjacent before, else -100.

    Rolling brings the far edges side by side; tokens of different bands must not see each other.
    """
    band = torch.zeros(grid, dtype=torch.int64, device="cpu")
    band[grid - window : grid - shift] = 1
    band[grid - shift :] = 2
    region = _cut(band[:, None] * 3 + band[None, :], window)
    return (region[:, :, None] != region[:, None, :]).float() * -100.0


def _cut(grid: Tensor, window: int) -> Tensor:
    """(side, side) → (windows, window²)."""
    count = grid.shape[0] // window
    return grid.view(count, window, count, window).transpose(1, 2).reshape(count * count, window * window)
