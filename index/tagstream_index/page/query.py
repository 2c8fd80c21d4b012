"""Typed text, read as words and filters.

Filters are `tag:dog`, `tag:"fire truck"|dog`, `score>0.6`, `bucket:photos`, `key:2026/*`, `since:7d`,
`before:2026-11-01`, `is:partial`, `model:compact`; a `-` before one reverses it. All other text is words, never an
error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

MOST_CHARS: Final = 1_000
MOST_TOKENS: Final = 40
"""Tokens beyond are words."""
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_STATES: Final = ("complete", "partial", "corrected")
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")

_TOKEN: Final = re.compile(
    r"""(?P<minus>-?)(?:
        (?P<kind>tag|bucket|key|since|before|is|model):(?P<value>(?:"[^"]*"|[^\s"])+)(?=\s|$)
        | (?P<score>score)(?P<sign>>=|<=|>|<)(?P<number>(?:0?\.\d{1,6}|[01](?:\.\d{0,6})?))(?=\s|$)
        | (?P<word>"[^"]*"(?=\s|$)|\S+)
    )""",
    re.VERBOSE,
)
_PART: Final = re.compile(r'(?:"[^"]*"|[^"|])+')


@dataclass(frozen=True, slots=True)
class Token:
    """A filter, or a word.

    Args:
        kind: `word`, `tag`, `score`, `bucket`, `key`, `since`, `before`, `is` or `model`.
        values: alternatives, each without quotes; of `score` the number, of a word the word itself with its quotes.
        text: as it was typed.
        sign: the comparison of `score`.
    """

    kind: str
    values: tuple[str, ...]
    text: str
    minus: bool = False
    sign: str = ""

    @property
    def shown(self) -> str:
        """The filter for people."""
        name = " or ".join(self.values)
        if self.kind == "score":
            name = f"score {self.sign} {name}"
        elif self.kind not in ("tag", "word"):
            name = f"{self.kind} {name}"
        return f"not {name}" if self.minus and self.kind != "word" else name


@dataclass(frozen=True, slots=True)
class Query:
    """What was typed, token by token."""

    tokens: tuple[Token, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(token.text for token in self.tokens)

    @property
    def words(self) -> str:
        """All words, as PostgreSQL's websearch_to_tsquery takes them."""
        return " ".join(token.text for token in self.tokens if token.kind == "word")

    @property
    def sentence(self) -> str:
        """The words as a sentence: without quotes, and without those that a picture must not have."""
        return " ".join(text.replace('"', "") for text in self._typed(minus=False)).strip()

    @property
    def excluded(self) -> str:
        """Any of the words that a picture must not have, as `words`."""
        return " or ".join(text.lstrip("-") for text in self._typed(minus=True))

    def _typed(self, *, minus: bool) -> list[str]:
        return [each.text for each in self.of("word") if each.text.startswith("-") == minus]

    @property
    def filters(self) -> tuple[Token, ...]:
        return tuple(token for token in self.tokens if token.kind != "word")

    def of(self, kind: str) -> tuple[Token, ...]:
        return tuple(token for token in self.tokens if token.kind == kind)

    def without(self, token: Token) -> Query:
        return Query(tuple(each for each in self.tokens if each is not token))

    def toggled(self, text: str, replaces: Sequence[str] = ()) -> Query:
        """With this filter, or without it where it is; other filters of the kinds `replaces` go."""
        (new,) = read(text).tokens
        kept = tuple(each for each in self.tokens if each.kind not in replaces and not _same(each, new))
        there = any(_same(each, new) for each in self.tokens)
        return Query(kept if there else (*kept, new))

    def has(self, text: str) -> bool:
        (new,) = read(text).tokens
        return any(_same(each, new) for each in self.tokens)


def read(text: str) -> Query:
    """The query that a text says; any text says one.

    Characters that no index holds become U+FFFD; what is longer than `MOST_CHARS` is cut.
    """
    clean = _UNSTORABLE.sub("\ufffd", text[:MOST_CHARS])
    found = [_token(match) for match in _TOKEN.finditer(clean)]
    return Query((*found[:MOST_TOKENS], *(_word(token.text) for token in found[MOST_TOKENS:])))


def tag(name: str) -> str:
    """The filter of a tag, as it is typed."""
    return named("tag", name)


def named(kind: str, name: str) -> str:
    """The filter of one value, as it is typed; a quote can't be typed, and becomes a space."""
    bare = name.replace('"', " ")
    return f"{kind}:{bare}" if re.fullmatch(r"[^\s|*]+", bare) else f'{kind}:"{bare}"'


def moment(text: str, now: datetime | None = None) -> datetime | None:
    """The time of `7d`, `12h`, `2026-11-01` or `2026-11-01T12:00`, UTC; None: it is no time."""
    if found := re.fullmatch(r"(\d{1,4})([mhdw])", text):
        return (now or datetime.now(UTC)) - timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        made = datetime.fromisoformat(text)
        return made.replace(tzinfo=UTC) if made.tzinfo is None else made.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def pattern(glob: str) -> str:
    """The LIKE pattern of a key in which `*` is any text."""
    return re.sub(r"([\\%_])", r"\\\1", glob).replace("*", "%")


def _same(one: Token, other: Token) -> bool:
    return (one.kind, one.values, one.minus, one.sign) == (other.kind, other.values, other.minus, other.sign)


def _word(text: str) -> Token:
    return Token("word", (text,), text)


def _token(match: re.Match[str]) -> Token:
    minus = bool(match["minus"])
    if match["score"]:
        return Token("score", (match["number"],), match[0], minus, match["sign"])
    if match["kind"] is None:
        return _word(match[0])
    values = tuple(_values(match["value"]))
    if not values or not _holds(match["kind"], values):
        return _word(match[0])
    return Token(match["kind"], values, match[0], minus)


def _values(text: str) -> Iterable[str]:
    for part in _PART.findall(text):
        if bare := part.replace('"', "").strip():
            yield bare


def _holds(kind: str, values: Sequence[str]) -> bool:
    if kind in ("since", "before"):
        return len(values) == 1 and moment(values[0]) is not None
    return kind != "is" or all(value in _STATES for value in values)
