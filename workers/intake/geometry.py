"""The part of an image that a transform takes; its size, scale and turn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from PIL import Image

from workers.intake.limits import blame
from workers.types import DecodedImage, Facts, ImageAbout, Pixels, Transform

SCALES: Final = (8, 4, 2)
"""A JPEG can be decoded at one of these parts of its columns and rows: libjpeg then transforms 1, 2 or 4 coefficients
of a block's 8, each way, and leaves the rest out. It scales in finer steps too, without the speed."""
_LONGEST = 4
"""Before a crop, an image is cut to at most this many times its shorter side; no crop sees what lies beyond."""


class Part(NamedTuple):
    """A rectangle of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def part_of(transform: Transform, size: tuple[int, int]) -> Part:
    """The part of an image that a transform uses: all but what lies far beyond a crop."""
    width, height = size
    if transform.fit == "crop":
        longest = _LONGEST * min(size)
        width, height = min(width, longest), min(height, longest)
    return Part((size[0] - width) // 2, (size[1] - height) // 2, width, height)


def resized_to(transform: Transform, size: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows after the resize: before any crop, without any border."""
    if transform.fit == "squash":
        return transform.size, transform.size
    if transform.fit == "pad":
        return within(transform, size)
    shorter = min(size)
    width, height = (transform.resize if side == shorter else int(transform.resize * side / shorter) for side in size)
    return width, height


def within(transform: Transform, size: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows of an image after "pad", without the black border."""
    scale = min(1.0, transform.size / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def scale_of(transforms: Iterable[Transform], size: tuple[int, int], reducing_gap: float) -> int:
    """The denominator of the scale to decode a JPEG at: 1, 2, 4 or 8.

    The largest that leaves each side with at least `reducing_gap` times the pixels that any transform resizes it to,
    as Pillow's argument of that name. Whether an image is turned makes no difference: its targets turn with it.

    Args:
        reducing_gap: 1 or more; 0: an image is never scaled.
    """
    if not reducing_gap:
        return 1
    pairs = [
        pair
        for transform in transforms
        for part in (part_of(transform, size).size,)
        for pair in zip(part, resized_to(transform, part), strict=True)
    ]
    if not pairs:
        return 1
    return next((n for n in SCALES if all(side >= n * reducing_gap * target for side, target in pairs)), 1)


def scaled(size: tuple[int, int], scale: int) -> tuple[int, int]:
    """Columns and rows of a JPEG decoded at 1/scale, rounded up."""
    return -(-size[0] // scale), -(-size[1] // scale)


def unpadded(transform: Transform, image: DecodedImage, facts: Facts | ImageAbout) -> Pixels:
    """The picture without the black border that "pad" added.

    Pixels outside of width × height mean that its EXIF orientation turned it.
    """
    padded = image.pixels[transform]
    width, height = within(transform, (facts.width, facts.height))
    if padded[height:].any() or padded[:, width:].any():
        width, height = height, width
    return padded[:height, :width]


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation."""
_EDGES = {2: (1, 0), 3: (1, 2), 4: (0, 2), 6: (2, 0), 7: (2, 1), 8: (0, 1)}
"""By EXIF orientation: which edge of the image as stored comes to lie on the left, and which on top, if it is the right
one (1) or the lower one (2)."""
_ON_ITS_SIDE = (5, 6, 7, 8)
"""EXIF orientations by which columns become rows."""


@dataclass(frozen=True, slots=True)
class Raster:
    """A decoded RGB image, perhaps at a part of its size.

    Args:
        size: columns and rows of the image in its file.
        orientation: as EXIF counts; 1: it is to be looked at as it is.
        scale: `image` has so many times fewer.
        left, top: where in `image` the file's own columns and rows begin. Those of a scaled image are rounded up, so
            that the last column and row may extend beyond the file's; after a turn it may be the first.
        exif: for `read_exif`. A turned image has none.
    """

    image: Image.Image
    size: tuple[int, int]
    orientation: int = 1
    scale: int = 1
    left: float = 0.0
    top: float = 0.0
    exif: bytes = b""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Columns and rows as the image is to be looked at."""
        return self.size[::-1] if self.orientation in _ON_ITS_SIDE else self.size

    def box(self, part: Part) -> tuple[float, float, float, float]:
        """A part of the file's image, in pixels of this one."""
        left, top = self.left + part.left / self.scale, self.top + part.top / self.scale
        return left, top, left + part.width / self.scale, top + part.height / self.scale

    def turned(self) -> Raster:
        """The image upright, by its EXIF orientation."""
        if self.orientation == 1:
            return self
        edges = 0.0, self.image.width - self.size[0] / self.scale, self.image.height - self.size[1] / self.scale
        left, top = _EDGES.get(self.orientation, (0, 0))
        with blame():
            image = self.image.transpose(_TURNS[self.orientation])
        return Raster(image, self.upright_size, 1, self.scale, edges[left], edges[top])

    def averaged(self, samples: int, cells: int) -> Image.Image:
        """Average samples of the upright image to cells × cells.

        Of the samples × samples, column i is the upright image's floor((i + 0.5) × columns / samples); rows are chosen
        so too. A mean is rounded, half a level up. The whole image is never turned.
        """
        left, top, right, bottom = self.box(Part(0, 0, *self.size))
        across, down = (right - left) / samples, (bottom - top) / samples
        end = 1 / (4 * samples * self.scale)  # a point on the border of two pixels takes the same one from either side
        edges = _EDGES.get(self.orientation, (0, 0))
        if 1 in edges:
            left, across = right - end, -across
        if 2 in edges:
            top, down = bottom - end, -down
        where = (across, 0, left, 0, down, top)
        with blame():
            picked = self.image.transform((samples, samples), Image.Transform.AFFINE, where, Image.Resampling.NEAREST)
            means = picked.reduce(samples // cells)
        return means.transpose(Image.Transpose.TRANSPOSE) if self.orientation in _ON_ITS_SIDE else means
