"""Results of added kinds, as their packages read them; without its package a kind has the words of its field `text`."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import islice
from typing import Any, Final, TypeVar

from workers.models.result_kinds import added_kinds

logger = logging.getLogger(__name__)

MARK: Final = "\x1e"
"""Stands before and after the name of a kind in `result_words`."""
WORDS_CHARS: Final = 20_000
"""Most characters of the words of all results of an image."""
_ROWS: Final = 50
_CONTROLS = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_Read = TypeVar("_Read")


def words_of(name: str, result: Mapping[str, Any]) -> str | None:
    """The words of a result, line by line; None: it has another shape than its kind's."""
    return guarded(name, "words", lambda: _CONTROLS.sub(" ", _words(name, result["value"])[:WORDS_CHARS]).strip())


def rows_of(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and text of each row that a picture's page shows."""
    found = list[tuple[str, str]]()
    for name, result in results.items():
        found += guarded(name, "rows", partial(_rows, name, result)) or ()
    return found[:_ROWS]


def guarded(name: str, part: str, read: Callable[[], _Read]) -> _Read | None:
    """What a kind reads of a producer's result; None: it raised, which is logged once."""
    try:
        return read()
    except Exception as error:  # noqa: BLE001  # another package's code may raise anything
        _log(name, part, type(error).__name__)
        return None


@cache
def _log(name: str, part: str, error: str) -> None:
    logger.warning("the %s of a result of the kind %s can't be read: %s", part, name, error)


def _words(name: str, value: Any) -> str:
    if kind := added_kinds().get(name):
        return kind.words(value)
    text = value.get("text")
    return text if isinstance(text, str) else ""


def _rows(name: str, result: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    value = result["value"]
    if kind := added_kinds().get(name):
        return [(str(label), str(text)[:WORDS_CHARS]) for label, text in islice(kind.rows(value), _ROWS)]
    text = _words(name, value)[:WORDS_CHARS]
    return [(name, text)] if text else []
