"""Recognizes an image's format, reads its header and applies the limits.

The first bytes decide the format, and Pillow tries only its decoder. So no decoder outside the allow-list sees a byte,
and a forbidden format has another reason than bytes that are no image.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from typing import Final

from PIL import AvifImagePlugin, Image, features

from workers.errors import Rejected
from workers.intake.limits import Limits, blame, flat_bytes
from workers.intake.scan import Essence, plain_jpeg, scan

DECODABLE: Final = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif")
"""Formats with a decoder here, in Pillow's own names in lower case."""

_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)

_SIGNATURES: Final = tuple(
    (name, re.compile(pattern, re.DOTALL))
    for name, pattern in (
        ("jpeg", rb"\xff\xd8\xff"),
        ("png", rb"\x89PNG\r\n\x1a\n"),
        ("gif", rb"GIF8[79]a"),
        ("webp", rb"RIFF....WEBP"),
        ("tiff", rb"II[*+]\0|MM\0[*+]"),
        ("bmp", rb"BM.{12}(?:%s)" % b"|".join(re.escape(size.to_bytes(4, "little")) for size in _BMP_HEADER_SIZES)),
        ("avif", rb"....ftypavi[fs]"),
        ("heic", rb"....ftyp(?:hei[cmsx]|hev[cmsx])"),
        ("jpeg xl", rb"\xff\x0a|\0\0\0\x0cJXL "),
        ("jpeg 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
        ("photoshop", rb"8BPS"),
        ("icon", rb"\0\0[\x01\x02]\0[^\0]\0"),
        ("openexr", rb"\x76\x2f\x31\x01"),
        ("radiance", rb"#\?RADIANCE"),
        ("dds", rb"DDS \x7c\0\0\0"),
        ("qoi", rb"qoif"),
        ("netpbm", rb"P[1-7]\s+[\d#W]"),
        ("pdf", rb"%PDF-"),
        ("postscript", rb"%!PS|\xc5\xd0\xd3\xc6"),
        ("svg", rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.{0,800}?|<!--.{0,800}?-->\s*|<!DOCTYPE svg.{0,800}?)?<svg[\s>]"),
    )
)

_ISO_IMAGE = re.compile(rb"(.{4})ftypm(?:if|sf)1", re.DOTALL)


def sniff(body: bytes) -> str | None:
    """The format's name, or None if no known signature matches."""
    head = body[:1024]
    if boxed := _ISO_IMAGE.match(head):
        brands = head[8 : int.from_bytes(boxed[1], "big")]
        return "avif" if b"avif" in brands or b"avis" in brands else "heic"
    return next((name for name, signature in _SIGNATURES if signature.match(head)), None)


def decodable(name: str) -> bool:
    """Whether this Pillow has a decoder for it: AVIF and WebP depend on how it was built."""
    return name in DECODABLE and (name not in ("avif", "webp") or bool(features.check(name)))


_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes of a pixel as Pillow stores it; every other mode takes four, RGB among them."""
_MODES = {1: "L", 3: "RGB"}
"""How Pillow calls a JPEG of so many components."""
_BASE = 128 << 10
"""What opening any file takes: objects, and the buffer that it is read through."""
_SCALED = {"I": 18, "F": 18, "I;16": 7, "I;16B": 7, "I;16L": 7, "I;16N": 7}
"""Bytes a pixel for bringing deep grey to eight bits."""


@dataclass(frozen=True, slots=True)
class Header:
    """An image that is worth decoding.

    Args:
        width, height: as stored, before any EXIF turn.
        mode: Pillow's word for channels and depth.
        decode_bytes: what decoding it in full holds in memory at most, besides the encoded bytes.
        pixel_bytes: of these, the bytes of each pixel; 0: it can't be decoded at a part of its size.
    """

    format: str
    width: int
    height: int
    mode: str
    decode_bytes: int
    pixel_bytes: int = 0


def guard(limits: Limits) -> None:
    """Set Pillow's process-wide guards by our limits.

    Pillow's own bomb check stays on, at our bound, for what happens before we see a size: a WebP's canvas is
    allocated when it is opened. Its warnings are about other people's files, so they are of no use in our log.
    """
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # One image has one processor: that is what is counted on, and each thread of a codec has buffers of its own.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def read_header(body: bytes, limits: Limits) -> Header:
    """Read format, size and mode without decoding; of an animation, those of its first frame.

    Raises Rejected: stage "decode"; not-an-image, format-not-allowed, too-complex, broken-image, too-many-pixels or
    too-small.
    """
    name = sniff(body)
    if name is None:
        raise Rejected("decode", "not-an-image", "the first bytes are those of no image format")
    if name not in limits.formats or not decodable(name):
        raise Rejected("decode", "format-not-allowed", f"{name} is not among {', '.join(limits.formats)}")
    essence = scan(body, name)
    if essence.size is not None:
        _check_pixels(essence.size, limits)  # before the decoder, which may make room for them when it opens the file
    with blame(), opened(essence, name) as image:
        size, mode = image.size, image.mode
    if essence.size is None:
        _check_size(size, limits)
        return Header(name, *size, mode, min(limits.decode_bytes, flat_bytes(size, len(body))))
    copied_bytes = 0 if essence.body is body else len(essence.body)
    return _checked(name, size, mode, essence, limits, copied_bytes)


def header_at_a_glance(body: bytes, limits: Limits) -> Header | None:
    """The header of a plain JPEG within the limits; None: call `read_header`.

    For a process in which no decoder may see a byte: bounded in time, in almost no memory, and by code in Python alone.
    """
    if sniff(body) != "jpeg" or "jpeg" not in limits.formats:
        return None
    try:
        with blame():
            plain = plain_jpeg(body)
            if plain is None:
                return None
            width, height, components, held_bytes = plain
            essence = Essence(b"", (width, height), held_bytes, scalable=True)
            return _checked("jpeg", (width, height), _MODES[components], essence, limits)
    except Rejected:
        return None


def check_decode_bytes(decode_bytes: int, limits: Limits) -> None:
    """Refuse an image whose decode takes too much by its estimate. Raises Rejected: decode-memory."""
    if decode_bytes > limits.decode_bytes:
        detail = f"decoding takes up to {decode_bytes} bytes, at most {limits.decode_bytes} are allowed"
        raise Rejected("decode", "decode-memory", detail)


def opened(essence: Essence, name: str) -> Image.Image:
    """Open the file's first image with this format's decoder; decodes no pixels yet."""
    return Image.open(io.BytesIO(essence.body), formats=(name.upper(),))


def _checked(
    name: str, size: tuple[int, int], mode: str, essence: Essence, limits: Limits, copied_bytes: int = 0
) -> Header:
    """The header of an image of this size and mode.

    Args:
        copied_bytes: of the part that decides its pixels, where that is a copy.
    """
    _check_size(size, limits)
    pixel_bytes = _pixel_bytes(essence, mode)
    decode_bytes = _BASE + essence.held_bytes + pixel_bytes * size[0] * size[1] + copied_bytes
    return Header(name, *size, mode, decode_bytes, pixel_bytes if essence.scalable else 0)


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    _check_pixels(size, limits)
    if min(size) < limits.min_side:
        detail = f"{size[0]} × {size[1]}, each side must have {limits.min_side} or more"
        raise Rejected("decode", "too-small", detail)


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise Rejected("decode", "too-many-pixels", f"{width} × {height}, at most {limits.max_pixels} are allowed")


def _pixel_bytes(essence: Essence, mode: str) -> int:
    """An upper bound for each pixel: the image as stored, its decoder, and the image as RGB.

    The sum, although the decoder has ended by then: the C library keeps its blocks of less than 4 MiB.
    """
    as_rgb = 0 if mode == "RGB" else 4 + _SCALED.get(mode, 0)
    return _STORED.get(mode, 4) + essence.pixel_bytes + as_rgb
