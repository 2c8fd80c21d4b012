"""The structure of a BMP: a header of fixed size."""

from __future__ import annotations

import struct

from workers.intake.scan.essence import Essence

_RUN_LENGTHS = (1, 2)
_A_PIXEL_OF_A_RUN = 10
"""Run lengths are unpacked in Python, into a growing array that is then copied and still held afterwards."""


def scan_bmp(body: bytes) -> Essence:
    """Keep the whole file: nothing in it is optional, and nothing repeats."""
    (header_size,) = struct.unpack_from("<L", body, 14)
    if header_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", body, 18)
        return Essence(body, (width, height), 2 * _row_bytes(width, bits))
    width, height, _, bits, compression = struct.unpack_from("<llHHL", body, 18)
    width, height = width % 2**32, abs(height)
    unpacked = _A_PIXEL_OF_A_RUN if compression in _RUN_LENGTHS else 0
    return Essence(body, (width, height), 2 * _row_bytes(width, bits), pixel_bytes=unpacked)


def _row_bytes(width: int, bits: int) -> int:
    return width * bits // 8 + 8
