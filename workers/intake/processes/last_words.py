"""What codecs write to a child's standard error: "Using code not yet in table", and the like.

Standard error of a child is a pipe that never blocks, so what a child may write before it is read has a bound: the rest
is dropped. The child empties it after each image, and so knows whose words they are; what is in it when a child has
died are the words about the image that it died of.
"""

from __future__ import annotations

import os

from schemas.printable import printable

TEXT_BYTES = 160
"""The most bytes that are kept of a line; a dead letter keeps 200 characters."""

PIPE_BYTES = 1 << 16
"""What a pipe holds unless it is told otherwise."""


def make_pipe() -> tuple[int, int]:
    """A pipe for a child's standard error: read end, write end; neither blocks."""
    return os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)


def last_words(pipe: int) -> tuple[int, str]:
    """Empty the pipe: its number of lines, and the last one, fit for a log."""
    try:
        text = os.read(pipe, PIPE_BYTES)
    except OSError:  # nothing is in it
        return 0, ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return len(lines), shown(lines[-1]) if lines else ""


def shown(line: bytes) -> str:
    """A codec's words, bounded and without a character that steers anything."""
    return printable(line[:TEXT_BYTES].decode("utf-8", "replace"))


def with_words(detail: str, words: str) -> str:
    """A detail, and what the codec itself says of it."""
    return f"{detail} ({words})" if words else detail
