"""Tells an image's format by its first bytes alone.

Pillow then tries that one format only. So no decoder outside the allow-list ever sees a byte, and a format that we do
not take is told from what is no image at all.
"""

from __future__ import annotations

import re
from typing import Final

from PIL import features

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
