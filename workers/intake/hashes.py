"""Makes the perceptual hash and the ThumbHash of a decoded image.

Both come from one grid of its pixels. schemas/README.md defines the perceptual hash. All its steps have whole numbers,
which are exact in float64, so that every program gets the same bits. ThumbHash is Evan Wallace's format: a contiguous
string of bits, the lowest first.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from workers.intake.geometry import Raster

HASH_BYTES: Final = 2 << 20
"""Upper bound of the memory that `hashes_of` holds besides the image: its samples are 1 MiB."""

_SAMPLES, _CELLS, _TERMS = 512, 32, 8
_FLAT: Final = 2_000.0
"""Least standard deviation of the grey cells, in thousandths of a level, of an image that has a perceptual hash."""

_ONE: Final = 1024
_BASIS: Final = np.rint(_ONE * np.cos(np.outer(np.arange(_TERMS), 2 * np.arange(_CELLS) + 1) * np.pi / (2 * _CELLS)))
"""The first terms of a DCT, a row each."""
_PLANES: Final = np.array([(299, 587, 114), (1, 1, 1), (1, 1, -2), (1, -1, 0)], np.float64)
"""Grey, and ThumbHash's three: luminance, yellow minus blue, red minus green."""
_FULL: Final = 255.0 * _CELLS**2 * _ONE**2 * np.array([3.0, 2.0, 1.0]).reshape(3, 1, 1)
"""The term 0 of ThumbHash's planes at its largest."""

_MOST = 7
"""Terms of the luminance along the longer side."""
_Bits = tuple[int, int]
"""A value, and its length."""
_Terms = Sequence[Sequence[float]]


def hashes_of(raster: Raster) -> tuple[str | None, str]:
    """Return an image's perceptual hash and its ThumbHash, both upright.

    Returns:
        16 hexadecimal digits, or None for a flat image, whose hash would be chance; base64 of at most 24 bytes.
    """
    cells = np.asarray(raster.averaged(_SAMPLES, _CELLS)).reshape(-1, 3)
    planes = _PLANES @ cells.T
    terms = _BASIS @ planes.reshape(-1, _CELLS, _CELLS) @ _BASIS.T
    grey, mean = planes[0], planes[0].mean()
    flat = grey @ grey / len(grey) - mean * mean < _FLAT**2
    phash = None if flat else _phash(terms[0].ravel().tolist())
    return phash, _thumbhash((terms[1:] / _FULL).tolist(), raster.upright_size)


def _phash(terms: Sequence[float]) -> str:
    others = terms[1:]
    median = sorted(others)[len(others) // 2]
    return f"{int(''.join('1' if each > median else '0' for each in others), 2):016x}"


def _thumbhash(terms: Sequence[_Terms], size: tuple[int, int]) -> str:
    """Write a ThumbHash without alpha.

    Args:
        terms: of each plane, rows of the mean of its product with a cosine.
    """
    columns, rows = (max(1, _rounded(_MOST * side / max(size))) for side in size)
    wide = size[0] > size[1]
    light, light_scale, light_terms = _channel(terms[0], max(3, columns), max(3, rows))
    yellow, yellow_scale, yellow_terms = _channel(terms[1], 3, 3)
    red, red_scale, red_terms = _channel(terms[2], 3, 3)
    means = (_rounded(63 * light), 6), (_rounded(31.5 + 31.5 * yellow), 6), (_rounded(31.5 + 31.5 * red), 6)
    alpha, side = (0, 1), (rows if wide else columns, 3)
    scales = (_rounded(63 * yellow_scale), 6), (_rounded(63 * red_scale), 6)
    head = *means, (_rounded(31 * light_scale), 5), alpha, side, *scales, (int(wide), 1)
    return _packed([*head, *light_terms, *yellow_terms, *red_terms])


def _channel(terms: _Terms, columns: int, rows: int) -> tuple[float, float, list[_Bits]]:
    """Return the mean, the largest other term, and the others.

    These are parts of the largest, from -1 (0) to 1 (15).
    """
    mean, *others = (
        terms[row][column] for row in range(rows) for column in range(columns) if column * rows < columns * (rows - row)
    )
    scale = max(map(abs, others))
    return mean, scale, [(_rounded(7.5 + 7.5 * each / scale) if scale else 0, 4) for each in others]


def _packed(fields: Sequence[_Bits]) -> str:
    number = at = 0
    for value, length in fields:
        number |= value << at
        at += length
    return base64.b64encode(number.to_bytes(math.ceil(at / 8), "little")).decode()


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)
