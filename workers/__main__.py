"""`python -m workers`, the same as `tagstream`."""

from __future__ import annotations

import atexit
import io
import os
import sys
import threading
from contextlib import suppress

_INTERRUPTED = 130
_LINGER_S = 10.0
"""How long threads that are stuck in a library may hold up the end of the process."""


def open_closed_streams() -> None:
    """Make every standard stream that is closed /dev/null: else the next file or socket would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # all below it are open by now, so that it gets this number
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, "w" if number else "r"))  # noqa: SIM115


def escape_unknown_characters() -> None:
    """Make standard output escape characters that its encoding lacks.

    Keys, labels and our own marks have such: `\u2717`.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the command line and exit soon after, whatever threads still wait."""
    code = 1
    # Registered before all others, so it runs after them. Next Python would take all modules apart, which with torch
    # takes 0.6 s of processor time.
    atexit.register(lambda: _leave(code))
    open_closed_streams()
    escape_unknown_characters()
    try:
        from workers.cli.app import run_command
    except KeyboardInterrupt:  # importing takes long enough for a Ctrl-C
        code = _INTERRUPTED
        sys.exit(code)
    code = run_command(sys.argv[1:])
    timer = threading.Timer(_LINGER_S, os._exit, [code])
    timer.daemon = True
    timer.start()
    sys.exit(code)


def _leave(code: int) -> None:
    """End the process at once, with what was printed."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
