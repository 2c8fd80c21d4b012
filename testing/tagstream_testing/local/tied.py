"""Run a program that cannot outlive its parent: `python tied.py SIGNAL PARENT PROGRAM [ARGUMENT ...]`.

Linux sends SIGNAL to the program when the thread that forked it ends, even by a SIGKILL of the parent. PARENT is the
process id that must still be the parent (it may die before the request is made); 0 accepts any parent. The program
keeps this process, its id and its descriptors.

It runs by its path, with the standard library alone, because a `preexec_fn` is not safe once threads exist.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    wanted, parent, program = signal.Signals[f"SIG{arguments[0]}"], int(arguments[1]), arguments[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(wanted)) != 0:
        sys.exit(f"This system can't tie a process to its parent: {os.strerror(ctypes.get_errno())}.")
    if parent and os.getppid() != parent:
        sys.exit("The parent is gone already.")
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"{program[0]} can't be run: {error.strerror}.")


if __name__ == "__main__":
    main(sys.argv[1:])
