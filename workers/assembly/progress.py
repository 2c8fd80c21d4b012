"""How work reports its progress: by a callback of the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

Total: TypeAlias = int | Callable[[], int | None] | None
"""A number of items; a function that counts them meanwhile; or None: unknown."""
Counting: TypeAlias = Callable[[str, Total], AbstractContextManager[Callable[[int], object]]]
"""Gets the name of items and their number; its context is a function that takes how many more are done."""
Tell: TypeAlias = Callable[[str, int, int | None], None]
"""Gets the name of a task, how much of it is done, and how much there is, if that is known."""


@contextmanager
def uncounted(what: str, total: Total) -> Iterator[Callable[[int], None]]:
    """Show nothing."""
    yield lambda count: None
