"""Execute a model's `Transform` with Pillow, the same in every process: encoded bytes in, uint8 pixels out.

The treatment of every kind of image, which follows `Image.open(...).convert("RGB")` where that is sensible:

- palette, 1-bit and grey are expanded; of YCbCr, CMYK (Adobe's inversion undone) and LAB Pillow's own conversion;
- alpha is dropped, which shows the colour that lies under it: nothing is blended;
- 16-bit grey keeps its high byte (Pillow alone would clip to white); 16-bit colour is reduced so by Pillow;
- 32-bit integers and floats have no range in their header: stretched from their least to their greatest value;
- an animation is its first frame; a truncated file is refused, never half decoded;
- colour profiles are ignored, and so is EXIF's orientation unless the Transform asks for it. A TIFF is always
  turned as its orientation tag says, because Pillow does so while it loads.

A JPEG far larger than what is made of it can be decoded at a half, a quarter or an eighth of its columns and rows
(`geometry.scale_of`), which libjpeg does for a fraction of the work. The pixels then differ by one or two levels of 255
at most places; nothing is so decoded unless a caller asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.intake.geometry import Part, Raster, part_of, resized_to, scale_of
from workers.intake.hashes import hashes_of
from workers.intake.header import opened
from workers.intake.limits import blame
from workers.intake.scan import orientation_of, read_exif, scan, told_orientation
from workers.types import DecodedImage, FactsMode, PictureFacts, Pixels, Transform

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_SMALL = 4_000_000
"""Pixels (16 MB) that an intermediate image may have even when its source is smaller."""

_RGB, _STORED = 3, 4
"""Bytes of a pixel in an array, and of one as Pillow stores it."""
_COPIES = 3
"""How often `np.array` has the pixels of an image: as rows, as these joined, and as the array."""
_WEIGHTS = 64
"""Bytes that a resize takes for its filter, for each row and column before and after it."""


def decode(
    body: bytes, name: str, transforms: Sequence[Transform], reducing_gap: float = 0.0, facts: FactsMode = "off"
) -> DecodedImage:
    """Decode an image of format `name` once; apply every Transform to it.

    Args:
        reducing_gap: as in `geometry.scale_of`, for a JPEG.

    Returns:
        for each Transform a contiguous uint8 array (size, size, 3), RGB.

    Raises:
        Rejected: stage "decode"; broken-image, decode-memory or decode-failed.
    """
    lying = _loaded(body, name, transforms, reducing_gap)
    upright = lying.turned() if any(transform.exif_transpose for transform in transforms) else lying
    return DecodedImage(
        {transform: _applied(transform, upright if transform.exif_transpose else lying) for transform in transforms},
        None if facts == "off" else _facts(lying, name, place=facts == "place"),
    )


def _facts(lying: Raster, name: str, *, place: bool) -> PictureFacts:
    told, (phash, thumbhash) = read_exif(lying.exif, place=place, tiff=name == "tiff"), hashes_of(lying)
    return replace(told, orientation=lying.orientation, phash=phash, thumbhash=thumbhash)


def load_rgb(body: bytes, name: str, *, exif_transpose: bool = False) -> Image.Image:
    """Decode an image of format `name` to RGB at its own size.

    Args:
        exif_transpose: as its EXIF orientation says it is to be looked at.
    """
    lying = _loaded(body, name)
    return (lying.turned() if exif_transpose else lying).image


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
    return _applied(transform, Raster(image, image.size))


def _applied(transform: Transform, raster: Raster) -> Pixels:
    part = part_of(transform, raster.size)
    width, height = resized_to(transform, part.size)
    image = _resized(raster, part, (width, height), _FILTERS[transform.interpolation])
    if transform.fit == "squash":
        return np.array(image)
    if transform.fit == "pad":
        padded = np.zeros((transform.size, transform.size, _RGB), np.uint8)
        padded[:height, :width] = np.array(image)
        return padded
    left, top = round((width - transform.size) / 2), round((height - transform.size) / 2)
    return np.array(image.crop((left, top, left + transform.size, top + transform.size)))


def transform_bytes(transforms: Sequence[Transform], size: tuple[int, int]) -> int:
    """Upper bound of the memory that `apply` holds besides the RGB image.

    An image may be turned before that, so it counts whichever way takes more.
    """
    results = sum(_RGB * transform.size**2 for transform in transforms)
    held = (_held_bytes(each, way) for each in transforms for way in (size, size[::-1]))
    return results + max(held, default=0)


def _held_bytes(transform: Transform, size: tuple[int, int]) -> int:
    """Upper bound of the memory of one transform: the sum of all its images."""
    square = transform.size**2
    part = part_of(transform, size).size
    cut = 0 if part == size else math.prod(part)
    target = resized_to(transform, part)
    between = part[0] * target[1] if _columns_first(part, target) else target[0] * part[1]
    weights = _WEIGHTS * (sum(part) + sum(target))
    return _STORED * (cut + between + math.prod(target) + square) + _COPIES * _RGB * square + weights


def _resized(raster: Raster, part: Part, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Resize as Pillow does, antialiased, without an intermediate image of gigabytes.

    Pillow resizes rows first, so a very high and narrow image, inside every limit, would be held at its full
    height and its new width. Such a one is resized by its columns first, which differs by rounding alone. No such one
    is scaled.
    """
    if raster.scale > 1:
        return raster.image.resize(size, resample, raster.box(part))
    image = raster.image if part.size == raster.size else raster.image.crop(raster.box(part))
    if _columns_first(image.size, size):
        image = image.resize((image.width, size[1]), resample)
    return image.resize(size, resample)


def _columns_first(size: tuple[int, int], target: tuple[int, int]) -> bool:
    return target[0] * size[1] > max(_SMALL, size[0] * size[1])


def _loaded(body: bytes, name: str, transforms: Sequence[Transform] = (), reducing_gap: float = 0.0) -> Raster:
    with blame():
        essence = scan(body, name)
        with opened(essence, name) as image:
            size = image.size
            scale = scale_of(transforms, size, reducing_gap) if essence.scalable else 1
            if scale > 1 and image.draft(None, (size[0] // scale, size[1] // scale)) is None:
                scale = 1
            image.load()
    if scale == 1:
        size = image.size  # loaded, a TIFF is turned
    exif, xmp = _metadata(image)
    if name == "avif" and not exif and told_orientation(essence.exif) is not None:
        xmp = b""  # the decoder knows that it is upright
    orientation = essence.orientation or orientation_of(exif, xmp)
    return Raster(to_rgb(image), size, orientation, scale, exif=essence.exif or exif)


def _metadata(image: Image.Image) -> tuple[bytes, bytes]:
    exif, xmp = image.info.get("exif", b""), image.info.get("xmp", b"")
    with suppress(ValueError):  # texts of a PNG, of which one is hexadecimal digits below three other lines
        xmp = image.info.get("XML:com.adobe.xmp", "").encode() or xmp
        exif = exif or bytes.fromhex("".join(image.info.get("Raw profile type exif", "").split("\n")[3:]))
    return exif, xmp


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
