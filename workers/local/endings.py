"""Signals that end a command, as one exception, so that `with` blocks and `finally` clean up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(BaseException):
    """Somebody asked this process to end. No `Exception`, so that nothing on the way takes it for a failure."""

    def __init__(self, which: int) -> None:
        super().__init__(signal.Signals(which).name)
        self.exit_code = 128 + which
        """By the shell's custom."""


@contextmanager
def signals_end() -> Iterator[None]:
    """Within it the first SIGINT, SIGTERM or SIGHUP raises Ended in the main thread; later ones don't disturb."""

    def end(which: int, _: FrameType | None) -> None:
        for other in _ENDINGS:
            signal.signal(other, signal.SIG_IGN)
        raise Ended(which)

    previous = {which: signal.signal(which, end) for which in _ENDINGS}
    try:
        yield
    finally:
        for which, handler in previous.items():
            signal.signal(which, handler)
