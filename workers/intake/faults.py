"""Turns what a decoder raises into a rejection: the one place where Pillow's exceptions become ours."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from workers.errors import Rejected

_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders are known to raise on bytes that are not what their header says."""


@contextmanager
def blame() -> Iterator[None]:
    """Turn whatever a decoder raises into a Rejected of stage "decode". Broad on purpose: the bytes are anyone's.

    A Rejected passes as it is.

    Use it around decoders alone, and have the self-test confirm the verdict (workers/intake/self_test.py).
    """
    try:
        yield
    except Rejected:
        raise
    except _BOMB as error:
        raise Rejected("decode", "too-many-pixels", str(error)) from error
    except MemoryError as error:
        raise Rejected("decode", "decode-memory", "the decoder got no memory") from error
    except _BROKEN as error:
        raise Rejected("decode", "broken-image", _words(error)) from error
    except Exception as error:
        raise Rejected("decode", "decode-failed", _words(error)) from error


def _words(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its text names a Python object
        return "the header can't be read"
    return f"{type(error).__name__}: {error}"
