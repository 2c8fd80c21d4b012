"""The templates, and how they show numbers, times and foreign text."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from itertools import groupby
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from schemas.printable import counted, escaped, printable
from schemas.result_kinds import ResultKind
from tagstream_index.page.finding import Counts
from tagstream_index.page.typed import named
from tagstream_index.results import guarded, rows_of
from tagstream_index.searching import Found
from workers.models.result_kinds import added_kinds
from workers.retag.changes import Changed

_LEAST, _MOST, _STEP = 40, 300, 5
"""Ratios of width to height that the style sheet knows, in hundredths."""
_BARS: Final = 60
"""Months of a histogram; beyond it has years."""
_TURNS: Final = (
    "1 0 0 1 0 0", "-1 0 0 1 {w} 0", "-1 0 0 -1 {w} {h}", "1 0 0 -1 0 {h}",
    "0 1 1 0 0 0", "0 1 -1 0 {h} 0", "0 -1 -1 0 {h} {w}", "0 -1 1 0 0 {w}",
)  # fmt: skip
"""By orientation: the matrix from pixels of the stored file, `w` wide and `h` high, to those of the upright picture."""
_DRAWN_CHARS: Final = 256 * 1024
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
    made.filters |= {"base64": _base64, "dated": dated, "turn": turn, "upright": upright}
    made.globals |= {"address": address, "found": found, "title": title, "tag": partial(named, "tag"), "named": named}
    made.globals |= {"bars": bars, "numbers": numbers, "kinds": added_kinds, "rows_of": rows_of}
    made.globals |= {"drawn": partial(drawn, made), "read_frame": read_frame}
    return made


def address(path: str, /, **fields: str | int | None) -> str:
    """An address of ours; empty fields are left out."""
    query = urlencode([(name, value) for name, value in fields.items() if value not in (None, "")])
    return f"{path}?{query}" if query else path


def ratio(tile: Found) -> int:
    """The ratio of width to height that the grid shows, in hundredths."""
    width, height = upright(tile)
    return min(_MOST, max(_LEAST, round(width / height * 100 / _STEP) * _STEP))


def upright(tile: Found) -> tuple[int, int]:
    """Width and height of the picture as people look at it."""
    on_its_side = (tile.orientation or 1) > 4
    return (tile.height, tile.width) if on_its_side else (tile.width, tile.height)


def read_frame(tile: Found) -> Found:
    """The picture with the pixels in which results have their places."""
    if (read := tile.read) is None:
        return tile
    return replace(tile, width=read["width"], height=read["height"], orientation=read.get("orientation"), format="")


def turn(tile: Found) -> str:
    """The SVG matrix from the read file to the upright picture; empty: unknown."""
    tile = read_frame(tile)
    if tile.orientation is None or tile.format == "tiff":  # Pillow turns a TIFF by itself
        return ""
    return _TURNS[tile.orientation - 1].format(w=tile.width, h=tile.height)


def drawn(environment: Environment, tile: Found, results: Mapping[str, Any]) -> Markup:
    """The SVG elements that kinds draw over the picture."""
    wanted = [kind for name, kind in added_kinds().items() if name in results] if turn(tile) else []
    parts = (guarded(each.name, "template", partial(_part, environment, each, results[each.name])) for each in wanted)
    return Markup("").join(Markup(part) for part in parts if part)


def _part(environment: Environment, kind: ResultKind, result: Mapping[str, Any]) -> str:
    found, chars = list[str](), 0
    for piece in environment.from_string(kind.template).generate(result=result["value"]):
        found.append(piece)
        chars += len(piece)
        if chars > _DRAWN_CHARS:
            raise ValueError("too long")
    return "".join(found)


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


def dated(tile: Found) -> str:
    """The date that orders a picture, and what it is."""
    if not tile.by_taken:
        return f"Last modified {clock(tile.last_modified)} UTC"
    zone = "local time" if tile.taken_offset is None else str(timezone(timedelta(minutes=tile.taken_offset)))
    return f"Taken {tile.dated:%-d %b %Y, %H:%M}, {zone}"


def numbers(changed: Changed, before: bool, after: bool) -> dict[str, str]:
    """Labels' known scores and thresholds, such as 0.14 / 0.15 → 0.12."""

    def told(first: float | None, second: float | None) -> str:
        shown = [f"{n:.2f}" for n, wanted in ((first, before), (second, after)) if wanted and n is not None]
        return " → ".join(dict.fromkeys(shown))

    pairs = {name: (told(each[0], each[1]), told(each[2], each[3])) for name, each in changed.numbers.items()}
    return {name: f"{score or '–'} / {limit}" if limit else score for name, (score, limit) in pairs.items()}


def by_month(tiles: Sequence[Found]) -> list[tuple[str, list[Found]]]:
    """Pictures in the order by day, under the names of their months."""
    return [(name, list(those)) for name, those in groupby(tiles, lambda tile: f"{tile.dated:%B %Y}")]


def bars(months: Sequence[tuple[str, int]]) -> list[tuple[str, str, int, float]]:
    """The bars of a histogram of months, the newest first; of more than 60 they are years.

    Returns:
        the period as a search has it and as people say it, its number, and that in hundredths of the largest.
    """
    if len(months) > _BARS:
        years = groupby(months, lambda each: each[0].partition("-")[0])
        months = [(year, sum(number for _, number in those)) for year, those in years][:_BARS]
    most = max((number for _, number in months), default=1)
    return [(when, _period(when), number, round(100 * number / most, 1)) for when, number in months]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _period(when: str) -> str:
    return f"{datetime.fromisoformat(f'{when}-01-01'[:10]):{('%Y', '%b %Y', '%-d %b')[when.count('-')]}}"


def lines(text: str) -> Markup:
    """JSON of many lines; characters that mislead a reader are escaped as in JSON."""
    return Markup("\n").join(escaped(line) for line in text.split("\n"))


def _plain(value: Any) -> Any:
    return printable(value) if type(value) is str else value
