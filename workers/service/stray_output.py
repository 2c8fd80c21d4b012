"""Logs what libraries write to standard output and error.

Codecs in C (libtiff, libpng) and others write there by themselves, whatever form the log has. Decoders in processes of
their own have pipes of their own (workers/intake/processes/last_words.py).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from workers import metrics
from workers.service.logs import TEXT_CHARS

logger = logging.getLogger(__name__)

_STANDARD = (1, 2)
_END_S = 1.0
"""How long to wait at the end for what is in the pipe: a process that inherited it may hold it open."""


@contextmanager
def stray_output_logged() -> Iterator[TextIO]:
    """Log this process's standard output and error; yields the real standard error.

    The writers never wait: some hold the interpreter's lock, which the reader needs. So what they write faster than it
    is read is dropped. The real standard error stays open after the context, for the log.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(standard) for standard in _STANDARD]
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    for standard in _STANDARD:
        os.dup2(theirs, standard)
    os.close(theirs)
    reader = threading.Thread(target=_log_lines, args=(ours,), name="stray-output", daemon=True)
    reader.start()
    try:
        yield open(kept[1], "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    finally:
        for standard, real in zip(_STANDARD, kept, strict=True):
            os.dup2(real, standard)
        reader.join(_END_S)
        os.close(kept[0])


def _log_lines(pipe: int) -> None:
    with open(pipe, "rb") as written:
        while line := written.readline(TEXT_CHARS):
            with suppress(Exception):  # for want of memory a line is lost, and not all that follow it
                _log_line(line)


def _log_line(line: bytes) -> None:
    if text := line.decode("utf-8", "replace").strip():
        metrics.STDERR_LINES.add(1, of="worker")
        logger.warning("a library wrote: %s", text)
