"""Typed text, read as words and filters.

Filters are those of `FILTERS`, and `NAME:word` for words in results of that name; a `-` before one reverses it. A
filter that can't be read or is unknown is neither a filter nor words: `Typed.faults` names it. All other text is words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple

from tagstream_index.query import STATES, Embedding, Filter, Query, Sort, moment, period, storable

MOST_CHARS: Final = 1_000
MOST_FILTERS: Final = 40
FILTERS: Final = {
    "tag": 'tag:dog or tag:"fire truck"|dog',
    "score": "score>0.6",
    "bucket": "bucket:photos",
    "key": "key:2026/*",
    "since": "since:7d or since:2026-11-01",
    "before": "before:7d or before:2026-11-01",
    "taken": "taken:2026-05 or taken>2024",
    "is": f"is:{' or is:'.join(STATES)}",
    "model": "model:compact",
}
"""How each filter is written."""

_TOKEN: Final = re.compile(
    r"""(?P<minus>-?)(?:
        (?P<name>[^\W\d_]+(?:-[^\W\d_]*)*)(?P<sign>:|>=|<=|>|<)(?P<value>(?:"[^"]*"|\S)*)
        | "[^"]*"(?=\s|$) | \S+
    )""",
    re.VERBOSE,
)
_PART: Final = re.compile(r'(?:"[^"]*"|[^"|])+')
_SCORE: Final = re.compile(r"0?\.\d{1,6}|[01](\.\d{0,6})?", re.ASCII)
_MOST_ALTERNATIVES: Final = 8


class Token(NamedTuple):
    """A part of the text, as it was typed: a filter, or why it is none; without both it is a word."""

    text: str
    filter: Filter | None = None
    fault: str = ""

    @property
    def wanted(self) -> tuple[str, ...]:
        """Tags of which a picture must have one."""
        return self.filter.values if self.filter is not None and self.filter.wants_tag else ()

    @property
    def is_word(self) -> bool:
        return self.filter is None and not self.fault

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
        return " ".join(token.text for token in self.tokens if token.is_word)

    @property
    def filters(self) -> tuple[Token, ...]:
        return tuple(token for token in self.tokens if token.filter is not None)

    @property
    def faults(self) -> list[str]:
        """A sentence about each filter that can't be read or is unknown."""
        return [token.fault for token in self.tokens if token.fault]

    def query(self, *, best: bool = False, about: Embedding | None = None, by_meaning: bool = False) -> Query:
        """The query of the text.

        Args:
            best: ordered by fit: by the rank of the words, or by the score of the tags; else by day, the newest first.
            about: the embedding of the words, which orders then; `by_meaning`: the words count only by it.
        """
        filters = [token.filter for token in self.tokens if token.filter is not None]
        if about is not None:
            words = [token.text for token in self.tokens if token.is_word]
            some = [each for each in words if each.startswith("-") or not by_meaning]
            return Query(" ".join(some), filters=filters, about=about)
        fit: Sort = "rank" if self.words else "score"
        return Query(self.words, filters=filters, sort=fit if best else "day")

    def can_rank(self) -> bool:
        """Whether there is an order by fit: with words, or a tag that a picture must have."""
        return bool(self.words) or any(token.filter is not None and token.filter.wants_tag for token in self.tokens)

    def without(self, token: Token, instead: str = "") -> Typed:
        """The text without a token, or with another one in its place."""
        new = read(instead).tokens
        return Typed(tuple(kept for each in self.tokens for kept in ((each,) if each is not token else new)))

    def some(self) -> Typed | None:
        """The same search for pictures with some of the words; None: there are not several, or `or` is among them."""
        words = [token.text for token in self.tokens if token.is_word]
        wanted = [word for word in words if word[0] != "-"]
        if len(wanted) < 2 or "or" in map(str.lower, wanted):
            return None
        excluded = [word for word in words if word[0] == "-"]
        text = " or ".join(" ".join([word, *excluded]) for word in wanted[:_MOST_ALTERNATIVES])
        return Typed((*read(text).tokens, *(token for token in self.tokens if not token.is_word)))

    def toggled(self, text: str, replaces: Sequence[str] = ()) -> Typed:
        """Add this filter in place of the kinds `replaces`, or remove it."""
        (new,) = read(text).tokens
        others = [each for each in self.tokens if not each.same(new)]
        kept = [each for each in others if each.filter is None or each.filter.kind not in replaces]
        return Typed((*kept, new) if len(others) == len(self.tokens) else tuple(kept))

    def has(self, text: str) -> bool:
        (new,) = read(text).tokens
        return any(each.same(new) for each in self.tokens)


def read(text: str, kinds: Collection[str] = ()) -> Typed:
    """The tokens of any text; text beyond `MOST_CHARS` is cut.

    Args:
        kinds: the kinds of results whose words can be searched.
    """
    tokens = [_token(match, kinds) for match in _TOKEN.finditer(storable(text[:MOST_CHARS]))]
    filters = (number for number, token in enumerate(tokens) if token.filter is not None)
    for number in islice(filters, MOST_FILTERS, None):
        fault = f"“{tokens[number].text}” is one too many: a search takes {MOST_FILTERS} filters."
        tokens[number] = Token(tokens[number].text, fault=fault)
    return Typed(tuple(tokens))


def results_in(text: str, kinds: Collection[str]) -> tuple[str, list[Filter]]:
    """The words of a text, and its `NAME:word` as filters. All other filters stay words."""
    tokens = read(text, kinds).tokens if len(text) <= MOST_CHARS else ()
    found = {token.text: token.filter for token in tokens if token.filter is not None and token.filter.of}
    return " ".join(token.text for token in tokens if token.text not in found) if found else text, [*found.values()]


def named(kind: str, name: str) -> str:
    """The filter of one value, as it is typed; a quote can't be typed, and becomes a space."""
    bare = name.replace('"', " ")
    return f"{kind}:{bare}" if re.fullmatch(r"[^\s|*]+", bare) else f'{kind}:"{bare}"'


def _token(match: re.Match[str], kinds: Collection[str]) -> Token:
    kind, sign, value = (match["name"] or "").lower(), match["sign"], match["value"] or ""
    if kind in FILTERS:
        found = _filter(kind, sign, value, excluded=bool(match["minus"]))
        fault = f"“{match[0]}” can't be read. Write {FILTERS[kind]}."
        return Token(match[0], found, "" if found else fault)
    if sign != ":" or not value or value.startswith("//"):  # also an address of the web
        return Token(match[0])
    if kind in kinds:
        found = _filter("result", sign, value, excluded=bool(match["minus"]), of=kind)
        fault = f'“{match[0]}” can\'t be read. Write {kind}:word or {kind}:"two words".'
        return Token(match[0], found, "" if found else fault)
    if "-" not in kind:
        fault = f"“{match[0]}” is no filter. There are {', '.join((*FILTERS, *sorted(kinds)))}."
        return Token(match[0], fault=f"{fault} For words, put it in quotation marks.")
    return Token(match[0])


def _filter(kind: Any, sign: str, value: str, *, excluded: bool, of: str = "") -> Filter | None:
    """The filter; None: it can't be read."""
    values = tuple(bare for part in _PART.findall(value) if (bare := part.replace('"', "").strip()))
    if not values or value.count('"') % 2:
        return None
    single, (first, *_) = len(values) == 1, values
    match kind:
        case "score":
            known = single and sign != ":" and _SCORE.fullmatch(first) is not None
        case "taken":
            known = single and period(first) is not None
        case "since" | "before":
            known = single and sign == ":" and moment(first) is not None
        case "is":
            known = sign == ":" and STATES.keys() >= {*values}
        case _:
            known = sign == ":"
    return Filter(kind, values, excluded, sign.strip(":"), of) if known else None
