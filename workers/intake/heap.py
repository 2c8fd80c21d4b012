"""Has the C library return freed memory when it should.

glibc takes a block of some megabytes from the system and, once the first such block is freed, serves all later ones
of up to 32 MiB from the heaps of single threads instead, which give back little of what they ever held. A worker whose
threads fetch and decode would keep the sum of their worst moments (measured: 450 MB after images of 50 megapixels
under budgets of 530), on top of what the budgets count.

So a process that decodes gives its large blocks back at once. One that runs a model must not: each layer's output would
be fresh pages, which the system has to clear (measured: 6 to 10 of 25 ms of an image of the compact tagger). It keeps
what it freed, and gives all of it back whenever it has freed so many bytes of objects. That takes one heap for all
threads: of a thread's own, glibc does not give back the end, which is where a large block lies.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 4 << 20
"""Below, a block is cheaper reused; above, the system's fresh pages cost some 15 % of decoding an image."""
_LARGEST_KEPT = 16 << 20
"""Above, a block is the system's: a model has few of them, and to keep them too took 90 MB more and gained nothing."""
_KEPT = 8 << 20
"""Bytes of objects after whose freeing the heap is emptied. The model then takes fresh pages once: some 5 ms."""


def give_back_large_blocks() -> None:
    """Return blocks of 4 MiB and more to the system when freed. Process-wide.

    Forks inherit it. Does nothing where the C library is not glibc.
    """
    _take_from_the_system(_LARGE)


def keep_large_blocks() -> None:
    """Keep blocks of up to 16 MiB in the heap until `freed`. Process-wide.

    To be called before there are threads, whose heaps would stay. Does nothing where the C library is not glibc.
    """
    if _take_from_the_system(_LARGEST_KEPT):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
        global _heap
        _heap = Heap(_KEPT, lambda: ctypes.CDLL(None).malloc_trim(0))


def freed(size: int) -> None:
    """Count an object's freed bytes. Thread-safe; does nothing without `keep_large_blocks`."""
    if _heap is not None:
        _heap.freed(size)


class Heap:
    """Empties the heap after every so many bytes freed. Thread-safe.

    Args:
        kept: bytes that may be freed and not yet given back.
        empty: gives back what is free.
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


def _take_from_the_system(larger: int) -> bool:
    """Allocate blocks of `larger` bytes and more from the system.

    False: the C library has no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mallopt(_M_MMAP_THRESHOLD, larger)
    mallopt(_M_TRIM_THRESHOLD, 2 * larger)
    return True
