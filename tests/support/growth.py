"""Processor time, and how it grows with the input: measured so that a busy machine does not show."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NOTICED_S = 0.005
"""A time below this says nothing about growth."""
LINEAR = 3.0
"""Twice the input takes less than three times as long; quadratic growth takes four times."""
SUSPECT = 0.85 * LINEAR
"""From here on it is measured more often, since it may be quadratic."""

ROUNDS_MIN = 2
ROUNDS_MAX = 60


def processor_s(call: Callable[[], object]) -> float:
    """Processor time of this thread for one call, without garbage collections that others' objects make long."""
    with no_garbage_collection():
        started = time.thread_time()
        call()
        return time.thread_time() - started


def growth(half: Callable[[], object], whole: Callable[[], object]) -> float:
    """How many times as long `whole` takes as `half`; 0 for a whole that takes no time to notice.

    Compares the least of several times, taken in turn: whatever shares the processor makes single times longer (caches,
    hyperthreads), never shorter. Measures on for as long as the growth looks worse than linear.
    """
    least_half, least_whole = float("inf"), float("inf")
    for done in range(1, ROUNDS_MAX + 1):
        least_half = min(least_half, processor_s(half))
        least_whole = min(least_whole, processor_s(whole))
        if least_whole < NOTICED_S:
            return 0.0
        if done >= ROUNDS_MIN and least_whole / least_half < SUSPECT:
            break
    return least_whole / least_half


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """While the body runs, no collection begins by itself."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
