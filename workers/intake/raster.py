"""A decoded image in memory, and how it is turned upright."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from workers.intake.geometry import Part
from workers.intake.limits import blame

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
