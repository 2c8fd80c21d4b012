"""Strips: lines of text cut out of a picture, of the height that the networks take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from tagstream_ocr.boxes import Floats, Ints, Quads
from workers.types import Pixels

HEIGHT: Final = 48
_NARROWEST: Final = 8
_GREY: Final = 127
"""After a strip's text: neither dark nor light to the networks."""


def sides(quads: Quads) -> tuple[Floats, Floats]:
    """Return length and height of each line, in pixels."""
    steps = np.linalg.norm(np.roll(quads, -1, axis=1) - quads, axis=2)
    return np.maximum(steps[:, 0], steps[:, 2]), np.maximum(steps[:, 1], steps[:, 3])


def strip_widths(quads: Quads, widest: int) -> Ints:
    """Return each strip's columns, at most `widest`: a longer line is squeezed."""
    lengths, heights = sides(quads)
    return np.clip(np.rint(HEIGHT * lengths / heights), _NARROWEST, widest).astype(np.intp)


class Cutter:
    """Cuts strips out of one picture; tall ones out of a smaller copy, which bounds time and avoids aliasing."""

    def __init__(self, picture: Pixels) -> None:
        self._copies = {1: Image.fromarray(picture)}

    def strips(self, quads: Quads, columns: Sequence[int], width: int) -> Pixels:
        """Cut lines as a batch: (n, 48, width, 3), grey after the end of the shorter ones."""
        batch = np.full((len(quads), HEIGHT, width, 3), _GREY, np.uint8)
        for row, quad, wide, height in zip(batch, quads, columns, sides(quads)[1].tolist(), strict=True):
            row[:, :wide] = self._strip(quad, wide, max(1, round(height / HEIGHT)))
        return batch

    def _strip(self, quad: Floats, width: int, factor: int) -> Pixels:
        if factor not in self._copies:
            self._copies[factor] = self._copies[1].reduce(factor)
        first, second, third, fourth = (quad / factor).tolist()
        image = self._copies[factor].transform(
            (width, HEIGHT), Image.Transform.QUAD, (*first, *fourth, *third, *second), Image.Resampling.BICUBIC
        )
        return np.asarray(image)
