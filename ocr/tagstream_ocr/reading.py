"""Reads the text in one image's pixels, within bounds."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tagstream_ocr import MAX_CHARACTERS, MAX_LINES, WrittenLine, WrittenText
from tagstream_ocr.boxes import Ints, Quads, reading_order, sides, text_boxes, whole_lines
from workers.intake.geometry import within
from workers.types import ImageAbout, Pixels, Transform

Read: TypeAlias = tuple[str, float]
"""A strip's text, and the mean probability of its characters."""

TRANSFORM: Final = Transform(960, "pad", interpolation="bilinear")
"""Without a turn by EXIF: corners are pixels of the stored file, and turned pages are known by their text."""
_MIRRORED: Final = (2, 4, 5, 7)
"""Orientations of EXIF whose stored pixels show a mirror's text."""
_STEP: Final = 32
"""The detector takes sides that are multiples of it."""
_HEIGHT: Final = 48
_NARROWEST, _WIDEST = 8, 40 * _HEIGHT
_GREY: Final = 127
"""After a strip's text: neither dark nor light to the networks."""
_COLUMNS: Final = 48_000
"""Of an image's strips together: 5 s of a core by torch in fp32, so that one half as fast isn't taken for hung."""
_SQUEEZED: Final = 0.7
"""Of strips' width, at least, where that makes a dense page fit; 1.4 % errors in letters of 11 pixels, not 0.6."""
_AT_ONCE: Final = 2_048
"""Columns of the strips that are recognised together."""
_SURE: Final = 0.5
_SURE_OF_FEW: Final = {1: 0.995, 2: 0.9, 3: 0.9}
"""By number of characters: so few are often a pattern that looks like them."""
_LONGER: Final = 1.5
"""One side over the other from which a box tells which way its line runs."""
_ASKED, _ASKED_WIDTH = 12, 192
"""The longest lines, and their columns, which say whether all are upside down."""


class Networks(NamedTuple):
    """Three networks, each of which normalises its pixels (RGB) itself."""

    detect: Callable[[Pixels], NDArray[np.float32]]
    """(h, w, 3), multiples of 32, to the probability of text by pixel, (h, w)."""
    recognise: Callable[[Pixels], Sequence[Read]]
    """(n, 48, w, 3) to the text of each."""
    is_upside_down: Callable[[Pixels], Sequence[bool]]
    """(n, 48, 192, 3) to an answer for each."""


class _Cutter:
    """Cuts strips out of one picture; tall ones out of a smaller copy, which bounds time and avoids aliasing."""

    def __init__(self, picture: Pixels) -> None:
        self._copies = {1: Image.fromarray(picture)}

    def strips(self, quads: Quads, widths: Ints, width: int) -> Pixels:
        """Cut lines as a batch: (n, 48, width, 3), grey after the end of the shorter ones."""
        batch = np.full((len(quads), _HEIGHT, width, 3), _GREY, np.uint8)
        factors = np.maximum(np.rint(sides(quads)[1] / _HEIGHT), 1).astype(int)
        for row, quad, wide, factor in zip(batch, quads, widths.tolist(), factors.tolist(), strict=True):
            if factor not in self._copies:
                self._copies[factor] = self._copies[1].reduce(factor)
            first, second, third, fourth = (quad / factor).tolist()
            shape, corners = (wide, _HEIGHT), (*first, *fourth, *third, *second)
            strip = self._copies[factor].transform(shape, Image.Transform.QUAD, corners, Image.Resampling.BICUBIC)
            row[:, :wide] = np.asarray(strip)
        return batch


def _strip_widths(quads: Quads, widest: int) -> Ints:
    """Each strip's columns: a longer line is squeezed."""
    lengths, heights = sides(quads)
    return np.clip(np.rint(_HEIGHT * lengths / heights), _NARROWEST, widest).astype(np.intp)


def read(pixels: Pixels, about: ImageAbout, networks: Networks) -> WrittenText:
    """Find the text in one image: (n, n, 3), n a multiple of 32, as a transform "pad" leaves it."""
    width, height = within(Transform(len(pixels), "pad"), (about.width, about.height))
    mirrored = about.orientation in _MIRRORED and about.format != "tiff"  # Pillow turns a TIFF by itself
    if mirrored:
        pixels = np.pad(pixels[:height, width - 1 :: -1], ((0, len(pixels) - height), (0, len(pixels) - width), (0, 0)))
    rows, columns = (-(-side // _STEP) * _STEP for side in (height, width))
    quads = text_boxes(networks.detect(np.ascontiguousarray(pixels[:rows, :columns])))
    cutter = _Cutter(pixels[:height, :width])
    quads = whole_lines(_upright(quads, cutter, networks))
    # The largest are kept, for no order of thousands is worth its time.
    kept = quads[np.sort(np.argsort(-np.prod(sides(quads), axis=0), kind="stable")[:MAX_LINES])]
    kept = kept[reading_order(kept)]
    widths = _strip_widths(kept, _WIDEST)
    widths = np.floor(widths * np.clip(_COLUMNS / max(1, widths.sum()), _SQUEEZED, 1)).astype(np.intp)
    fitting = int(np.searchsorted(np.cumsum(widths), _COLUMNS, "right"))
    found = _recognised(kept[:fitting], widths[:fitting], cutter, networks)
    scale = np.array([about.width / width, about.height / height])
    corners = np.clip(np.rint(kept[:fitting] * scale), 0, (about.width, about.height)).astype(int)
    if mirrored:
        corners[..., 0] = about.width - corners[..., 0]
    return _written(zip(found, corners, strict=True), truncated=fitting < len(quads))


def _upright(quads: Quads, cutter: _Cutter, networks: Networks) -> Quads:
    """The same lines, each with its text's upper left corner first. All that run one way are turned, or none."""
    lengths, heights = sides(quads)
    lying, standing = lengths >= _LONGER * heights, heights >= _LONGER * lengths  # short ones run as most others do
    upwards = standing | (~lying & (heights[standing].sum() > lengths[lying].sum()))
    quads = np.where(upwards[:, None, None], np.roll(quads, 1, axis=1), quads)
    for group in (upwards, ~upwards):
        asked = quads[group]
        asked = asked[np.argsort(-sides(asked)[0], kind="stable")[:_ASKED]]
        if not len(asked):
            continue
        strips = cutter.strips(asked, _strip_widths(asked, _ASKED_WIDTH), _ASKED_WIDTH)
        if 2 * sum(networks.is_upside_down(strips)) > len(asked):
            quads[group] = np.roll(quads[group], 2, axis=1)
    return quads


def _recognised(quads: Quads, widths: Ints, cutter: _Cutter, networks: Networks) -> list[Read]:
    """The text of each line: strips of like width together."""
    found: list[Read] = [("", 0.0)] * len(quads)
    waiting = np.argsort(widths, kind="stable").tolist()
    while waiting:
        count = 1
        while count < len(waiting) and (count + 1) * widths[waiting[count]] <= _AT_ONCE:
            count += 1
        now, waiting = waiting[:count], waiting[count:]
        strips = cutter.strips(quads[now], widths[now], int(widths[now[-1]]))
        for index, line in zip(now, networks.recognise(strips), strict=True):
            found[index] = line
    return found


def _written(found: Iterable[tuple[Read, Ints]], truncated: bool) -> WrittenText:
    """The lines that are surely text, as far as they fit."""
    lines: list[WrittenLine] = []
    room = MAX_CHARACTERS + 1
    for (text, score), corners in found:
        text = plain(text)
        if not text or score < _SURE_OF_FEW.get(len(text), _SURE):
            continue
        room -= len(text) + 1
        if room < 0:
            truncated = True
            break
        line = {"text": text, "score": min(score, 1.0), "corners": corners.tolist()}
        lines.append(WrittenLine.model_validate(line))
    return WrittenText(text="\n".join(line.text for line in lines), lines=tuple(lines), truncated=truncated)


def plain(text: str) -> str:
    """Return the text without characters that control; blanks become single."""
    return "".join(char for char in " ".join(text.split()) if unicodedata.category(char)[0] != "C").strip()
