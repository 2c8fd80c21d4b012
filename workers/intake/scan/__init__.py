"""Bounds a file's decoding cost and cuts out its pixel data.

A decoder reads what a file says about itself before a caller can ask what that costs: segments, chunks, profiles,
comments. So each common format has a reader of ours that walks its outermost structure and nothing else, in time linear
in the bytes and in almost no memory. It refuses what no honest file has (`too-complex`), says what the decoder will
hold besides the pixels, and hands on only what decides a pixel: profiles, comments, thumbnails, further frames never
reach the decoder, so nothing in them is inflated, parsed or even kept.

TIFF and AVIF go to the decoder as they are; of an AVIF is counted what would hold the decoder up. A flat bound is
reserved for both (`limits.FLAT`), and the child process that reads them is held to it.

Of metadata no more is read than the orientation (`orientation.py`), if they are no larger than a segment of a JPEG
holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from workers.errors import Rejected
from workers.intake.limits import blame
from workers.intake.scan.avif import scan_avif
from workers.intake.scan.blocks import scan_bmp, scan_gif, scan_png, scan_webp
from workers.intake.scan.essence import Essence, orientation_of, whole
from workers.intake.scan.jpeg import plain_jpeg, scan_jpeg

__all__ = ["Essence", "orientation_of", "plain_jpeg", "scan"]

_READERS: Final[Mapping[str, Callable[[bytes], Essence]]] = {
    "jpeg": scan_jpeg,
    "png": scan_png,
    "webp": scan_webp,
    "gif": scan_gif,
    "bmp": scan_bmp,
    "tiff": whole,
    "avif": scan_avif,
}


def scan(body: bytes, name: str) -> Essence:
    """Read the structure of a file of format `name` (as in `workers.intake.header.DECODABLE`).

    Raises:
        Rejected: stage "decode"; too-complex, with what there is too much of and how much; broken-image.
    """
    try:
        with blame():
            return _READERS[name](body)
    except Rejected as error:
        raise error.with_traceback(None) from None
