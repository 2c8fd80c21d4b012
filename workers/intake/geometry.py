"""The part of an image that a transform takes; its size and JPEG scale."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from workers.types import DecodedImage, Facts, Pixels, Transform

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


def unpadded(transform: Transform, image: DecodedImage, facts: Facts) -> Pixels:
    """The picture without the black border that "pad" added.

    Pixels outside of width × height mean that its EXIF orientation turned it.
    """
    padded = image.pixels[transform]
    width, height = within(transform, (facts.width, facts.height))
    if padded[height:].any() or padded[:, width:].any():
        width, height = height, width
    return padded[:height, :width]
