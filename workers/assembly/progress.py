"""How work reports its progress: by a callback of the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

Counting: TypeAlias = Callable[[str, int | None], AbstractContextManager[Callable[[int], object]]]
"""Gets the name of items and their number, if known; its context is a function that takes how many more are done."""
Tell: TypeAlias = Callable[[str, int, int | None], None]
"""Gets the name of a task, how much of it is done, and how much there is, if that is known."""


@contextmanager
def uncounted(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show nothing."""
    yield lambda count: None
