"""Typed text, read as words and filters.

Filters are `tag:dog`, `tag:"fire truck"|dog`, `score>0.6`, `bucket:photos`, `key:2026/*`, `since:7d`,
`before:2026-11-01`, `taken:2026-05`, `taken>2024`, `is:partial`, `model:compact`; a `-` before one reverses it. All
other text is words, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from tagstream_index.query import STATES, Embedding, Filter, Query, Sort, moment, period, storable

MOST_CHARS: Final = 1_000
MOST_TOKENS: Final = 40
"""Tokens beyond are words."""

_TOKEN: Final = re.compile(
    r"""(?P<minus>-?)(?:
        (?P<kind>tag|bucket|key|since|before|is|model):(?P<value>(?:"[^"]*"|[^\s"])+)(?=\s|$)
        | taken(?P<when>:|>=|<=|>|<)(?P<period>\d{4}(?:-\d\d){0,2})(?=\s|$)
        | (?P<score>score)(?P<sign>>=|<=|>|<)(?P<number>(?:0?\.\d{1,6}|[01](?:\.\d{0,6})?))(?=\s|$)
        | (?P<word>"[^"]*"(?=\s|$)|\S+)
    )""",
    re.VERBOSE,
)
_PART: Final = re.compile(r'(?:"[^"]*"|[^"|])+')


class Token(NamedTuple):
    """A part of the text, as it was typed, and its filter; None: it is a word."""

    text: str
    filter: Filter | None = None

    def same(self, other: Token) -> bool:
        """Whether both say the same."""
        return self.filter == other.filter and (self.filter is not None or self.text == other.text)


@dataclass(frozen=True, slots=True)
class Typed:
    """A typed text, token by token."""

    tokens: tuple[Token, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(token.text for token in self.tokens)

    @property
    def words(self) -> str:
        """All words, as PostgreSQL's websearch_to_tsquery takes them."""
        return " ".join(token.text for token in self.tokens if token.filter is None)

    @property
    def filters(self) -> tuple[Token, ...]:
        return tuple(token for token in self.tokens if token.filter is not None)

    def query(self, *, best: bool = False, about: Embedding | None = None, by_meaning: bool = False) -> Query:
        """The query of the text.

        Args:
            best: ordered by fit: by the rank of the words, or by the score of the tags; else by day, the newest first.
            about: the embedding of the words, which orders then.
            by_meaning: the words count only by `about`.
        """
        filters = [token.filter for token in self.tokens if token.filter is not None]
        if about is not None:
            words = [token.text for token in self.tokens if token.filter is None]
            some = [each for each in words if each.startswith("-") or not by_meaning]
            return Query(" ".join(some), filters=filters, about=about)
        fit: Sort = "rank" if self.words else "score"
        return Query(self.words, filters=filters, sort=fit if best else "day")

    def can_rank(self) -> bool:
        """Whether there is an order by fit: with words, or a tag that a picture must have."""
        return bool(self.words) or any(token.filter is not None and token.filter.wants_tag for token in self.tokens)

    def without(self, token: Token) -> Typed:
        return Typed(tuple(each for each in self.tokens if each is not token))

    def toggled(self, text: str, replaces: Sequence[str] = ()) -> Typed:
        """Add this filter in place of the kinds `replaces`, or remove it."""
        (new,) = read(text).tokens
        others = [each for each in self.tokens if not each.same(new)]
        kept = [each for each in others if each.filter is None or each.filter.kind not in replaces]
        return Typed((*kept, new) if len(others) == len(self.tokens) else tuple(kept))

    def has(self, text: str) -> bool:
        (new,) = read(text).tokens
        return any(each.same(new) for each in self.tokens)


def read(text: str) -> Typed:
    """The tokens of any text; text beyond `MOST_CHARS` is cut."""
    found = [_token(match) for match in _TOKEN.finditer(storable(text[:MOST_CHARS]))]
    return Typed((*found[:MOST_TOKENS], *(Token(token.text) for token in found[MOST_TOKENS:])))


def named(kind: str, name: str) -> str:
    """The filter of one value, as it is typed; a quote can't be typed, and becomes a space."""
    bare = name.replace('"', " ")
    return f"{kind}:{bare}" if re.fullmatch(r"[^\s|*]+", bare) else f'{kind}:"{bare}"'


def _token(match: re.Match[str]) -> Token:
    kind: Any = match["kind"]
    excluded = bool(match["minus"])
    if match["score"]:
        return Token(match[0], Filter("score", (match["number"],), excluded, match["sign"]))
    if match["period"]:
        when = Filter("taken", (match["period"],), excluded, match["when"].strip(":"))
        return Token(match[0], when if period(match["period"]) else None)
    parts = _PART.findall(match["value"] or "")
    values = tuple(bare for part in parts if (bare := part.replace('"', "").strip()))
    known = bool(values)
    if kind in ("since", "before"):
        known = len(values) == 1 and moment(values[0]) is not None
    elif kind == "is":
        known = known and STATES.keys() >= {*values}
    return Token(match[0], Filter(kind, values, excluded) if known else None)
