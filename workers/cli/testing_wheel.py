"""What a command says when it needs the wheel tagstream-testing, and only tagstream is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from workers.errors import Misconfigured, not_installed

PACKAGES = ("tagstream_testing.local", "tagstream_testing")
"""What that wheel adds to `workers`."""


@contextmanager
def needs_testing_wheel(command: str) -> Iterator[None]:
    """Import from `tagstream_testing.local` inside of this.

    Raises:
        Misconfigured: the wheel is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(PACKAGES):
            raise
        raise Misconfigured(f"`tagstream {command}`: {not_installed('tagstream-testing')}") from None
