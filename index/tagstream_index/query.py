"""A search as data: words, filters, a vector to be near to, and an order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from workers.errors import Misconfigured

Kind: TypeAlias = Literal[
    "tag", "score", "bucket", "subject", "key", "prefix", "since", "before", "taken", "is", "model", "result"
]
Sort: TypeAlias = Literal["rank", "score", "time", "day"]

STATES: Final = {
    "corrected": "corrections is not null",
    "complete": "provenance->>'status' = 'complete'",
    "partial": "provenance->>'status' = 'partial'",
}
"""Kinds of outcomes as SQL: the values of `is`."""
LIKE_WITHIN: Final = 0.3
ABOUT_WITHIN: Final = 1.0
"""A right angle: images are much farther from sentences than from each other."""
_WORDS_CHARS: Final = 1_000
_NAME_CHARS: Final = 1_088
"""No tag, bucket or key in the index is longer."""
_MOST_TAGS: Final = 20
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_WORD: Final = re.compile(r'-?"[^"]*"(?=\s|$)|\S+')


class Embedding(NamedTuple):
    """The name of a space and a vector in it: (dimensions,), length 1."""

    space: str
    vector: NDArray[np.float16]


class Filter(NamedTuple):
    """A condition on an image.

    Args:
        kind: the compared part: `subject` and `prefix` compare the first characters of the subject and of the key.
        values: alternatives; of `score` a number, of `since` and `before` a time as `moment` reads it, of `taken` a
            period as `period` reads it, of `result` words in this order. In a `key`, `*` stands for any text.
        excluded: images that meet the condition are left out.
        sign: the comparison of `score` and `taken`: `>`, `>=`, `<` or `<=`; of `taken` none: within the period.
        of: the kind of the `result` that has the words.
    """

    kind: Kind
    values: tuple[str, ...]
    excluded: bool = False
    sign: str = ""
    of: str = ""

    @property
    def wants_tag(self) -> bool:
        return self.kind == "tag" and not self.excluded

    @property
    def shown(self) -> str:
        """The filter for people."""
        name = " or ".join(self.values)
        if self.sign:
            name = f"{self.kind} {self.sign} {name}"
        elif self.kind != "tag":
            name = f"{self.of or self.kind} {name}"
        return f"not {name}" if self.excluded else name


@dataclass(frozen=True, slots=True)
class Query:
    """Conditions that all hold, and an order.

    The score of an image in a search is the lowest score of its wanted tags; of alternative tags the best one counts.
    Without a wanted tag it is the best score of all tags.

    Args:
        words: in tags, caption, name, translations and results: `red car`, `"red car"`, `car or bus`, `car -red`. Any
            text will do.
        tags: names of tags that an image must all have.
        min_score: lowest score of the image in this search, 0 to 1.
        since: earliest `last_modified`, with a time zone.
        prefix: first characters of the key.
        filters: further conditions.
        like: images near this embedding. Of more than 3,000 that meet the other conditions most of the nearest are
            found, and pages may overlap.
        about: images near this embedding of a sentence; with words one list, as `fused`, of the best 1,000 by each.
        within: largest cosine distance, 0 to 2; None: 0.3 from `like`, 1 from `about`.
        sort: `rank` (of words; the default with words), `score`, `time` (of `last_modified`, newest first; the default
            without words) or `day` (of `dated`, newest first). Rank and score order the newest 2,000 matches. Not with
            `like` or `about`, which order by distance.

    Raises:
        Misconfigured: an argument is wrong, or contradicts another.
    """

    words: str = ""
    _: KW_ONLY
    tags: Sequence[str] = ()
    min_score: float | None = None
    since: datetime | None = None
    bucket: str | None = None
    prefix: str | None = None
    filters: Sequence[Filter] = ()
    like: Embedding | None = None
    about: Embedding | None = None
    within: float | None = None
    sort: Sort | None = None

    def __post_init__(self) -> None:
        texts = [("query", self.words), ("bucket", self.bucket or ""), ("prefix", self.prefix or "")]
        for name, text in (*texts, *(("tag", tag) for tag in self.tags)):
            most, size = _WORDS_CHARS if name == "query" else _NAME_CHARS, f"{len(text):,} characters"
            require(len(text) <= most, f"the {name} has {size}, and at most {most:,} are searched")
        require(len(self.tags) <= _MOST_TAGS, f"a search takes {_MOST_TAGS} tags, not {len(self.tags):,}")
        require(self.min_score is None or 0 <= self.min_score <= 1, f"a lowest score is 0 to 1, not {self.min_score}")
        require(0 <= self.reach <= 2, f"a cosine distance is 0 to 2, not {self.within}")
        require(self.like is None or self.about is None, "near an image, or near a sentence: leave one out")
        require(self.near is None or self.sort is None, f"the nearest come first: leave the sorting by {self.sort} out")
        require(self.sort != "rank" or bool(self.words.strip()), "sorting by rank needs words")
        wants_tag = self.sort == "score" and any(each.wants_tag for each in self.conditions)
        require(self.sort != "score" or wants_tag, "sorting by score needs a tag")

    @property
    def near(self) -> Embedding | None:
        return self.like if self.about is None else self.about

    @property
    def reach(self) -> float:
        """The largest cosine distance."""
        return self.within if self.within is not None else LIKE_WITHIN if self.about is None else ABOUT_WITHIN

    @property
    def order(self) -> Sort:
        return self.sort or ("rank" if self.words.strip() else "time")

    @property
    def sentence(self) -> str:
        """The wanted words, without quotes."""
        return " ".join(each.replace('"', "") for each in _WORD.findall(self.words) if each[0] != "-").strip()

    @property
    def some(self) -> str:
        """The wanted words and those of results, as alternatives."""
        words = [each for each in _WORD.findall(self.words) if each[0] != "-"]
        of = (value for each in self.filters if each.of and not each.excluded for value in each.values)
        return " or ".join([*words, *(f'"{value}"' for value in of)])

    @property
    def excluded(self) -> str:
        """Words that an image must not have, as alternatives."""
        return " or ".join(each.lstrip("-") for each in _WORD.findall(self.words) if each[0] == "-")

    @property
    def conditions(self) -> tuple[Filter, ...]:
        """All conditions but the words and the vector."""
        return (*self._named(), *self.filters)

    def _named(self) -> Iterator[Filter]:
        yield from (Filter("tag", (tag,)) for tag in self.tags)
        if self.min_score is not None:
            yield Filter("score", (str(self.min_score),), sign=">=")
        if self.since is not None:
            yield Filter("since", (self.since.isoformat(),))
        if self.bucket:
            yield Filter("subject", (f"{self.bucket}/{self.prefix or ''}",))
        elif self.prefix:
            yield Filter("prefix", (self.prefix,))


def storable(text: str) -> str:
    """Replace characters that PostgreSQL can't store by U+FFFD, which no name has."""
    return _UNSTORABLE.sub("\ufffd", text)


def moment(text: str, now: datetime | None = None) -> datetime | None:
    """The time of `7d`, `12h`, `2026-11-01` or `2026-11-01T12:00`, UTC; None: the text is no time."""
    if found := re.fullmatch(r"(\d{1,4})([mhdw])", text):
        return (now or datetime.now(UTC)) - timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        made = datetime.fromisoformat(text)
        return made.replace(tzinfo=UTC) if made.tzinfo is None else made.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def period(text: str) -> tuple[datetime, datetime] | None:
    """Begin and end, without a zone, of `2026`, `2026-05` or `2026-05-31`; None: the text is no period."""
    if not (found := re.fullmatch(r"(\d{4})(?:-(\d\d))?(?:-(\d\d))?", text, re.ASCII)):
        return None
    year, month, day = (int(each) if each else None for each in found.groups())
    try:
        begin = datetime(year or 0, month or 1, day or 1)  # noqa: DTZ001
        if day:
            return begin, begin + timedelta(days=1)
        return begin, begin.replace(year=begin.year + (month in (None, 12)), month=(month or 12) % 12 + 1)
    except (ValueError, OverflowError):
        return None


def pattern(glob: str) -> str:
    """The LIKE pattern of a key in which `*` is any text."""
    return re.sub(r"([\\%_])", r"\\\1", glob).replace("*", "%")


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Misconfigured(otherwise)
