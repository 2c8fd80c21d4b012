"""Bounds a file's decoding cost and cuts out its pixel data.

A decoder reads a file's segments, chunks, profiles and comments before a caller can know their cost. So each common
format has a reader here that walks only its outermost structure, in linear time and almost no memory. The reader
refuses files with unusually many parts (`too-complex`), estimates the decoder's memory in addition to the pixels, and
passes on only the bytes that decide a pixel. Profiles, comments, thumbnails and further frames never reach the decoder.

TIFF and AVIF reach the decoder whole but for an AVIF's EXIF; its slow parts are counted before. Both have a flat bound
(`limits.FLAT`), which their child process enforces.

Of metadata only a picture's facts are read (`exif.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from workers.errors import Rejected
from workers.intake.limits import blame
from workers.intake.scan.avif import scan_avif
from workers.intake.scan.blocks import scan_bmp, scan_gif, scan_png, scan_webp
from workers.intake.scan.essence import Essence
from workers.intake.scan.exif import orientation_of, read_exif, told_orientation
from workers.intake.scan.jpeg import plain_jpeg, scan_jpeg

__all__ = ["Essence", "orientation_of", "plain_jpeg", "read_exif", "scan", "told_orientation"]

_READERS: Final[Mapping[str, Callable[[bytes], Essence]]] = {
    "jpeg": scan_jpeg,
    "png": scan_png,
    "webp": scan_webp,
    "gif": scan_gif,
    "bmp": scan_bmp,
    "tiff": lambda body: Essence(body, None, 0, exif=body),
    "avif": scan_avif,
}


def scan(body: bytes, name: str) -> Essence:
    """Read the structure of a file of format `name` (as in `workers.intake.header.DECODABLE`).

    Raises Rejected: stage "decode"; too-complex, with what there is too much of and how much; broken-image.
    """
    try:
        with blame():
            return _READERS[name](body)
    except Rejected as error:
        raise error.with_traceback(None) from None
