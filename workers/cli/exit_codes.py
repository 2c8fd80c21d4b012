"""The exit codes of all commands."""

from __future__ import annotations

from workers.errors import Broken, Misconfigured, TagstreamError, Unavailable

DONE = 0
OUR_BUG = 1
FOUND = 1
"""A command that compares, such as `tagstream topics check` or `audit`, found what is not as it should be."""
MISCONFIGURED = 2
"""Wrong settings or arguments, or a bundle that does not load."""
BROKEN = 3
"""A broken device or a stall."""
UNAVAILABLE = 4
"""A dependency does not answer. Never of `tagstream run`, which waits for it."""
INTERRUPTED = 130
READER_LEFT = 141
"""What a shell says of a program that SIGPIPE ended, such as `cat` in `cat file | head`."""


def exit_code(error: TagstreamError) -> int:
    """The exit code for an error, by whose fault it is."""
    if isinstance(error, Misconfigured) or (isinstance(error, Unavailable) and error.fault == "access"):
        return MISCONFIGURED
    return BROKEN if isinstance(error, Broken) else UNAVAILABLE
