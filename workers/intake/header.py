"""What a picture's header says, checked against the limits before anything is decoded."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from workers.errors import Rejected
from workers.intake.faults import blame
from workers.intake.formats import decodable, sniff
from workers.intake.limits import Limits

_TILE_WIDTH, _TILE_LENGTH = 322, 323
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes of a pixel as Pillow stores it; every other mode takes four, RGB among them."""
_CODEC = {"webp": 14, "avif": 10}
"""Bytes a pixel that a format's decoder holds besides: WebP's canvas, the one before, and a copy; AVIF's planes."""
_SCALED = {"I": 8, "F": 8, "I;16": 3, "I;16B": 3, "I;16L": 3, "I;16N": 3}
"""Bytes a pixel for bringing deep grey to eight bits."""


@dataclass(frozen=True, slots=True)
class Header:
    """A picture that is worth decoding.

    Args:
        format: as in `workers.intake.formats`.
        width, height: as stored, before any EXIF turn.
        mode: Pillow's word for channels and depth.
        decode_bytes: what decoding it holds in memory at most, besides the encoded bytes.
    """

    format: str
    width: int
    height: int
    mode: str
    decode_bytes: int


def guard(limits: Limits) -> None:
    """Set Pillow's process-wide guards by our limits.

    Pillow's own bomb check stays on, at our bound, for what happens before we see a size: a WebP's canvas is
    allocated when it is opened. Its warnings are about other people's files, so they are of no use in our log.
    """
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    warnings.filterwarnings("ignore", module=r"PIL\.")


def read_header(body: bytes, limits: Limits) -> Header:
    """Read format, size and mode without decoding; of an animation, those of its first frame.

    Raises:
        Rejected: stage "decode"; not-an-image, format-not-allowed, broken-image, too-many-pixels or too-small.
    """
    name = _allowed_format(body, limits)
    with blame(), open_picture(body, name) as image:
        width, height, mode = image.width, image.height, image.mode
        decode_bytes = max(width * height, tile := _tile_pixels(image)) * _bytes_per_pixel(image, name)
    if width * height > limits.max_pixels:
        raise Rejected("decode", "too-many-pixels", f"{width} × {height}, at most {limits.max_pixels} are allowed")
    if tile > limits.max_pixels:
        raise Rejected("decode", "too-many-pixels", f"a tile of {tile} pixels, at most {limits.max_pixels} are allowed")
    if min(width, height) < limits.min_side:
        raise Rejected("decode", "too-small", f"{width} × {height}, each side must have {limits.min_side} or more")
    return Header(name, width, height, mode, decode_bytes)


def open_picture(body: bytes, name: str) -> Image.Image:
    """Open with the decoder of this one format. A JPEG with a second picture behind it (MPO) opens as its first."""
    return Image.open(io.BytesIO(body), formats=(name.upper(),))


def _allowed_format(body: bytes, limits: Limits) -> str:
    name = sniff(body)
    if name is None:
        raise Rejected("decode", "not-an-image", "the first bytes are those of no picture format")
    if name not in limits.formats or not decodable(name):
        raise Rejected("decode", "format-not-allowed", f"{name} is not among {', '.join(limits.formats)}")
    return name


def _tile_pixels(image: Image.Image) -> int:
    """Pixels of a tiled TIFF's tile, which is decoded whole and may be far larger than its picture."""
    if not isinstance(image, TiffImageFile):
        return 0
    return int(image.tag_v2.get(_TILE_WIDTH, 0)) * int(image.tag_v2.get(_TILE_LENGTH, 0))


def _bytes_per_pixel(image: Image.Image, name: str) -> int:
    """An upper bound, from measurements: the picture as stored, as RGB if it is not, and what the codec needs."""
    as_rgb = 0 if image.mode == "RGB" else 4
    # A progressive JPEG keeps every coefficient, two bytes each, until its last scan.
    progressive = 2 * len(image.getbands()) if "progressive" in image.info else 0
    return _STORED.get(image.mode, 4) + as_rgb + _CODEC.get(name, 0) + _SCALED.get(image.mode, 0) + progressive
