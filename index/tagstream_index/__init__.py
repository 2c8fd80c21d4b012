"""The newest outcome of each image, in PostgreSQL.

The commands are `tagstream index …` (`cli.py`) and `tagstream search` (`search_cli.py`). It imports the worker's parts;
the worker imports nothing of it. Programs use `search`, `Query`, `Found`, `Embedding` and `connected`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tagstream_index.database import connected
    from tagstream_index.query import Embedding, Query
    from tagstream_index.searching import Found, search

__all__ = ["Embedding", "Found", "Query", "connected", "search"]


def __getattr__(name: str) -> Any:
    """Import on first use: a command's help needs no client of PostgreSQL."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("tagstream_index.searching"), name)
