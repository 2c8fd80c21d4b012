"""Ties a process to its parent: the kernel kills it when the parent's thread that made it ends, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal

from workers.errors import Broken

_PR_SET_PDEATHSIG = 1


def tie_to(parent: int) -> None:
    """Have the kernel kill this process when its parent ends. Raises Broken: this system can't."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL)) != 0:
        raise Broken("this system can't tie a process to its parent")
    if os.getppid() != parent:
        os._exit(1)
