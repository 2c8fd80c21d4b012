"""The peak memory of some work in this process, as the kernel saw it."""

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_M_MMAP_THRESHOLD = -3
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def peak_bytes(work: Callable[[], object]) -> int:
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 4 << 20)  # as a decoder's process
    gc.collect()
    libc.malloc_trim(0)  # or memory from an earlier test would hide this one's
    _CLEAR.write_text("5")
    before = _kilobytes("VmRSS")
    work()
    return (_kilobytes("VmHWM") - before) * 1024


def _kilobytes(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
