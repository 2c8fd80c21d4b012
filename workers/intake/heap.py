"""Keeps freed memory for the models, and returns it in time.

A model frees and allocates the same blocks for each layer. glibc would return large ones to the system, which then
clears fresh pages for the next layer (measured: 6 to 10 of 25 ms of an image of the compact tagger). So the process
keeps freed blocks, and returns all of them whenever it has freed `_KEPT` bytes of objects. This needs one heap for all
threads: glibc never returns the end of a thread's own heap, which is where a large block lies.

The decoders' processes do the opposite, by their environment (`processes.fork_server`).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGEST_KEPT = 16 << 20
"""Larger blocks are returned at once: a model has few of them, and keeping them took 90 MB and saved no time."""
_KEPT = 8 << 20
"""Bytes of freed objects after which the heap is emptied. The model then takes fresh pages once: some 5 ms."""


def keep_large_blocks() -> None:
    """Keep freed blocks of up to 16 MiB in the heap.

    Process-wide, until `freed` empties the heap. Call it before there are threads, whose heaps would stay. Without
    glibc it does nothing.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_KEPT)
    libc.mallopt(_M_ARENA_MAX, 1)
    global _heap
    _heap = Heap(_KEPT, lambda: libc.malloc_trim(0))


def freed(size: int) -> None:
    """Count an object's freed bytes. Thread-safe; does nothing without `keep_large_blocks`."""
    if _heap is not None:
        _heap.freed(size)


class Heap:
    """Empties the heap after every so many freed bytes. Thread-safe.

    Args:
        kept: freed bytes after which the heap is emptied.
        empty: returns all free memory to the system.
    """

    def __init__(self, kept: int, empty: Callable[[], object]) -> None:
        self._kept = kept
        self._empty = empty
        self._lock = threading.Lock()
        self._freed = 0

    def freed(self, size: int) -> None:
        with self._lock:
            self._freed += size
            if self._freed < self._kept:
                return
            self._freed = 0
        self._empty()


_heap: Heap | None = None
