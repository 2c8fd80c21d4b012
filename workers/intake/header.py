"""What a picture's header says, checked against the limits before anything is decoded."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from PIL import Image

from workers.errors import Rejected
from workers.intake.faults import blame
from workers.intake.formats import decodable, sniff
from workers.intake.limits import Limits

_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""How Pillow stores a pixel; every other mode takes four bytes, RGB among them."""


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

    Pillow's own bomb check stays on, at our bound, for the sizes that only its decoders see: a WebP's canvas is
    allocated when it is opened, a TIFF's tile may be larger than its picture. Its warnings are about other people's
    files, so they are of no use in our log.
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
    if width * height > limits.max_pixels:
        raise Rejected("decode", "too-many-pixels", f"{width} × {height}, at most {limits.max_pixels} are allowed")
    if min(width, height) < limits.min_side:
        raise Rejected("decode", "too-small", f"{width} × {height}, each side must have {limits.min_side} or more")
    return Header(name, width, height, mode, width * height * _bytes_per_pixel(name, mode))


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


def _bytes_per_pixel(name: str, mode: str) -> int:
    stored = _BYTES_PER_PIXEL.get(mode, 4)
    as_rgb = 0 if mode == "RGB" else 4
    return stored + as_rgb
