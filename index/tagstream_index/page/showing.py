"""The templates, and how they show numbers, times and foreign text."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from schemas.printable import counted, escaped, printable
from tagstream_index.page.finding import Counts
from tagstream_index.page.typed import named
from tagstream_index.searching import Found

_LEAST, _MOST, _STEP = 40, 300, 5
"""Ratios of width to height that the style sheet knows, in hundredths."""
_UNITS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"))


def templates() -> Environment:
    """The environment of the templates: it escapes all, and no foreign text turns the direction of what follows."""
    made = Environment(
        loader=PackageLoader("tagstream_index.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )
    made.filters |= {"ago": ago, "clock": clock, "counted": counted, "lines": lines, "ratio": ratio}
    made.globals |= {"address": address, "found": found, "title": title, "tag": partial(named, "tag"), "named": named}
    return made


def address(path: str, /, **fields: str | int | None) -> str:
    """An address of ours; empty fields are left out."""
    query = urlencode([(name, value) for name, value in fields.items() if value not in (None, "")])
    return f"{path}?{query}" if query else path


def ratio(tile: Found) -> int:
    """The ratio of width to height that the grid shows, in hundredths."""
    return min(_MOST, max(_LEAST, round(tile.width / tile.height * 100 / _STEP) * _STEP))


def title(tile: Found) -> str:
    """The picture in a few words."""
    return tile.caption or ", ".join(tile.names[:3]) or tile.key.rpartition("/")[2]


def found(counts: Counts) -> str:
    return f"{counts.total:,}+ pictures" if counts.more else counted(counts.total, "picture")


def ago(moment: datetime) -> str:
    """How long ago, in one unit."""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, name in _UNITS:
        if seconds >= unit:
            return f"{counted(seconds // unit, name)} ago"
    return f"{seconds} s ago"


def clock(moment: datetime | str) -> str:
    """Date and time, UTC."""
    try:
        time = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        return f"{time.astimezone(UTC):%-d %b %Y, %H:%M}"
    except (ValueError, OverflowError):
        return str(moment)


def lines(text: str) -> Markup:
    """JSON of many lines; characters that mislead a reader are escaped as in JSON."""
    return Markup("\n").join(escaped(line) for line in text.split("\n"))


def _plain(value: Any) -> Any:
    return printable(value) if type(value) is str else value
