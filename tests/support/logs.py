"""Logging as before a test that starts it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def restored() -> Iterator[None]:
    """Logging changes of the block end with it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    chatty = {name: logging.getLogger(name).level for name in ("kafka", "kafka.protocol.parser", "urllib3")}
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
        for name, was in chatty.items():
            logging.getLogger(name).setLevel(was)
