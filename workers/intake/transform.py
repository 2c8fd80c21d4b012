"""Execute a model's `Transform` with Pillow, the same in every process: encoded bytes in, uint8 pixels out.

The treatment of every kind of image, which follows `Image.open(...).convert("RGB")` where that is sensible:

- palette, 1-bit and grey are expanded; of YCbCr, CMYK (Adobe's inversion undone) and LAB Pillow's own conversion;
- alpha is dropped, which shows the colour that lies under it: nothing is blended;
- 16-bit grey keeps its high byte (Pillow alone would clip to white); 16-bit colour is reduced so by Pillow;
- 32-bit integers and floats have no range in their header: stretched from their least to their greatest value;
- an animation is its first frame; a truncated file is refused, never half decoded;
- colour profiles are ignored, and so is EXIF's orientation unless the Transform asks for it. A TIFF is always
  turned as its orientation tag says, because Pillow does so while it loads.

JPEG's reduced-size decoding (Pillow's draft mode) is not used: its pixels differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from workers.intake.faults import blame
from workers.intake.header import open_image
from workers.types import DecodedImage, Pixels, Transform

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_SMALL = 4_000_000
"""Pixels (16 MB) that an intermediate image may have even when its source is smaller."""
_LONGEST = 4
"""Before a crop, an image is cut to at most this many times its shorter side; no crop sees what lies beyond."""

_RGB, _STORED = 3, 4
"""Bytes of a pixel in an array, and of one as Pillow stores it."""
_COPIES = 3
"""How often `np.array` has the pixels of an image: as rows, as these joined, and as the array."""
_WEIGHTS = 64
"""Bytes that a resize takes for its filter, for each row and column before and after it."""


def decode(body: bytes, name: str, transforms: Sequence[Transform]) -> DecodedImage:
    """Decode the bytes of an image of format `name` once, and transform it for every Transform.

    Returns:
        for each Transform a contiguous uint8 array (size, size, 3), RGB.

    Raises:
        Rejected: stage "decode"; broken-image, decode-memory or decode-failed.
    """
    upright = {False: load_rgb(body, name)}
    if any(transform.exif_transpose for transform in transforms):
        upright[True] = turned(upright[False])
    return DecodedImage({transform: apply(transform, upright[transform.exif_transpose]) for transform in transforms})


def load_rgb(body: bytes, name: str) -> Image.Image:
    """Decode the bytes of an image of format `name` to RGB, at its own size.

    Raises:
        Rejected: as `decode`.
    """
    return to_rgb(_loaded(body, name))


def turned(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says it is to be looked at."""
    with blame():
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return image if upright else ImageOps.exif_transpose(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB, by the rules above."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return _grey(image, np.asarray(image) >> 8)
    if image.mode in ("I", "F"):
        return _grey(image, _stretched(np.array(image, dtype=np.float32)))
    image.info.pop("transparency", None)  # it would change no colour, but makes Pillow warn
    with blame():
        return (image.convert("LA") if image.mode == "La" else image).convert("RGB")


def apply(transform: Transform, image: Image.Image) -> Pixels:
    """Resize (and cut, or pad) an RGB image as the transform says."""
    square = (transform.size, transform.size)
    if transform.fit == "squash":
        return np.array(_resized(image, square, transform))
    if transform.fit == "pad":
        width, height = within(transform, image.size)
        padded = np.zeros((*square, _RGB), np.uint8)
        padded[:height, :width] = np.array(_resized(image, (width, height), transform))
        return padded
    image = _shortened(image)
    width, height = _before_the_cut(transform, image.size)
    image = _resized(image, (width, height), transform)
    left, top = round((width - transform.size) / 2), round((height - transform.size) / 2)
    return np.array(image.crop((left, top, left + transform.size, top + transform.size)))


def within(transform: Transform, size: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows that an image of this size has after "pad", before what is black."""
    scale = min(1.0, transform.size / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def transform_bytes(transforms: Sequence[Transform], size: tuple[int, int]) -> int:
    """An upper bound of what `apply` holds besides an RGB image of this size, until it has been called for each.

    An image may be turned before that, so it counts whichever way takes more.
    """
    results = sum(_RGB * transform.size**2 for transform in transforms)
    held = (_held_bytes(each, way) for each in transforms for way in (size, size[::-1]))
    return results + max(held, default=0)


def _held_bytes(transform: Transform, size: tuple[int, int]) -> int:
    """What one transform holds at most, as the sum of all its images, though some are gone before others come."""
    square = transform.size**2
    cut, target = 0, (transform.size, transform.size)
    if transform.fit == "crop":
        shortened = _short_sides(size)
        cut = 0 if shortened == size else math.prod(shortened)
        size, target = shortened, _before_the_cut(transform, shortened)
    elif transform.fit == "pad":
        target = within(transform, size)
    between = size[0] * target[1] if _columns_first(size, target) else target[0] * size[1]
    weights = _WEIGHTS * (sum(size) + sum(target))
    return _STORED * (cut + between + math.prod(target) + square) + _COPIES * _RGB * square + weights


def _before_the_cut(transform: Transform, size: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows of an image whose shorter side was resized to `transform.resize`."""
    shorter = min(size)
    width, height = (transform.resize if side == shorter else int(transform.resize * side / shorter) for side in size)
    return width, height


def _resized(image: Image.Image, size: tuple[int, int], transform: Transform) -> Image.Image:
    """Resize as Pillow does, antialiased, but never through an intermediate image of gigabytes.

    Pillow resizes rows first, so a very high and narrow image, inside every limit, would be held at its full
    height and its new width. Such a one is resized by its columns first, which differs by rounding alone.
    """
    resample = _FILTERS[transform.interpolation]
    if _columns_first(image.size, size):
        image = image.resize((image.width, size[1]), resample)
    return image.resize(size, resample)


def _columns_first(size: tuple[int, int], target: tuple[int, int]) -> bool:
    return target[0] * size[1] > max(_SMALL, size[0] * size[1])


def _shortened(image: Image.Image) -> Image.Image:
    width, height = _short_sides(image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _short_sides(size: tuple[int, int]) -> tuple[int, int]:
    longest = _LONGEST * min(size)
    return min(size[0], longest), min(size[1], longest)


def _loaded(body: bytes, name: str) -> Image.Image:
    with blame(), open_image(body, name) as image:
        image.load()
        return image


def _grey(image: Image.Image, levels: NDArray[np.generic]) -> Image.Image:
    grey = Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    grey.info = image.info
    return grey


def _stretched(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale to 0..255 in place, without overflow at either end of float32. What is no number counts as 0."""
    np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.zeros_like(values)
    largest = max(-low, high)
    values /= largest
    values -= low / largest
    values *= 255 / (high / largest - low / largest)
    return np.clip(np.rint(values, out=values), 0, 255, out=values)
