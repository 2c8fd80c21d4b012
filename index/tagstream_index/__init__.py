"""What tagstream publishes, kept in PostgreSQL: one row for each image.

The commands are `tagstream index …` (`cli.py`) and `tagstream search` (`search_cli.py`). It imports the worker's parts;
the worker imports nothing of it. For programs: `search`, `connected`, `Found`, `Embedding`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tagstream_index.searching import Embedding, Found, connected, search

__all__ = ["Embedding", "Found", "connected", "search"]


def __getattr__(name: str) -> Any:
    """Import on first use: a command's help needs no client of PostgreSQL."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tagstream_index import searching

    return getattr(searching, name)
