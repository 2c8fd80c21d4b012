"""The page's searches: parts of a result with places between them, counts, similar pictures."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from types import MappingProxyType
from typing import Final, NamedTuple

from tagstream_index.copies import months
from tagstream_index.database import readable
from tagstream_index.page.typed import Token, Typed, named
from tagstream_index.query import STATES, Query, storable
from tagstream_index.searching import LIVE, Found, Place, Ranking, Searcher

COUNTED: Final = 5_000
"""Only the newest hits are counted."""
_PART_BYTES: Final = 4 << 20
"""Of the names in a part: it is held as long as its reader takes, and a picture may have 15,000."""
_NAME_BYTES: Final = 100
_MOST_TAGS, _BUCKETS = 1_000, 24
_OF_ONE: Final = 64
"""Tags of one picture that are counted, the best ones: an outcome may have a million."""
_TRIED_S: Final = 0.25
_PARTS: Final = 8
"""Parts of an empty search that are tried alone."""
_SIMILAR: Final = 12
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Page(NamedTuple):
    """A part of the result; `earlier` and `later`: there is more."""

    found: list[Found]
    earlier: bool
    later: bool


class Counts(NamedTuple):
    """Numbers of the newest hits: all, by tag, by bucket, by state, by month."""

    total: int
    more: bool
    """There are older hits too."""
    tags: list[tuple[str, int]]
    """The most frequent 1,000 tags and wider names; for a wider name a picture counts once."""
    buckets: list[tuple[str, int]]
    states: list[tuple[str, int]]
    months: Sequence[tuple[str, int]] = ()
    parents: Mapping[str, Sequence[str]] = MappingProxyType({})
    """The wider names of these tags, nearest first, where there are some."""


class Why(NamedTuple):
    """Why a result is empty; `indexed` is False if the whole index is."""

    indexed: bool
    nothing: list[str]
    """Parts that no picture meets."""
    without: list[tuple[str, Typed]]
    """The searches with a part less that find something."""
    nearest: list[tuple[str, Typed]]
    """Tags like these parts, and the searches with them."""


class Result:
    """The images that a query finds, part by part.

    Raises:
        Misconfigured: the index has no embeddings of the query's space.
    """

    def __init__(self, searcher: Searcher, query: Query) -> None:
        self._searcher, self.query = searcher, query
        self.ranking = None if query.about is None else searcher.ranking(query)
        """The whole order of a search by meaning."""
        self._fits = {} if self.ranking is None else {subject: fit for fit, subject in self.ranking.order}
        self.by_day = query.order == "day"
        self._by_time = self.ranking is None and (self.by_day or query.order == "time")

    def part(self, limit: int, *, after: Place | None = None, before: Place | None = None) -> Page:
        """Images after or before a place, else the first ones: fewer if large."""
        place, back = after or before, before is not None
        if self.ranking is not None:
            found = self._ranked(self.ranking, place, limit + 1, back=back)
        else:
            found = self._searcher.rows(self.query, limit + 1, place=place, back=back)
        sizes = accumulate(_NAME_BYTES * len(each.names) + sum(map(len, each.names)) for each in found[:limit])
        limit = max(1, sum(size <= _PART_BYTES for size in sizes))
        more, found = len(found) > limit, found[:limit]
        return Page(found[::-1], more, True) if back else Page(found, place is not None, more)

    def counts(self, containing: str = "") -> Counts:
        """Counts of the newest hits; by meaning, of all that are ranked. Only tags with this text in their names."""
        query, among = (self.query, None) if self.ranking is None else (Query(), list(self._fits))
        counts = count(self._searcher, query, among, containing=containing)
        more = counts.more if self.ranking is None else self.ranking.cut
        return counts._replace(more=more, months=months(self._searcher, query, among))

    def place(self, found: Found) -> Place:
        """The place of an image, found by this query."""
        fit = found.score if found.rank is None else found.rank
        fit = self._fits.get(found.subject, 0.0) if self.ranking is not None else fit
        time = found.dated if self.by_day else found.last_modified
        return Place(None if self._by_time else fit, time, found.subject)

    def cursor(self, found: Found) -> str:
        """The place of an image, for an address."""
        fit, time, subject = self.place(found)
        microseconds = (time.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
        return f"{'' if fit is None else f'{fit!r}~'}{microseconds}~{subject}"

    def place_of(self, text: str) -> Place | None:
        """The place in an address; None if the text is invalid."""
        found = re.fullmatch(r"(?:([0-9.e+-]{1,30})~)?(-?\d{1,17})~(.{1,1200})", text, re.DOTALL)
        if found is None or (found[1] is None) != self._by_time or storable(found[3]) != found[3]:
            return None
        try:
            fit = None if found[1] is None else float(found[1])
            time = _EPOCH + timedelta(microseconds=int(found[2]))
            return Place(fit, time.replace(tzinfo=None) if self.by_day else time, found[3])
        except (ValueError, OverflowError):
            return None

    def _ranked(self, ranking: Ranking, place: Place | None, limit: int, *, back: bool) -> list[Found]:
        order, here = ranking.order, place and (place.fit, place.subject)
        if here is not None:
            order = [each for each in (order[::-1] if back else order) if (each > here if back else each < here)]
        found = self._searcher.of_subjects([subject for _, subject in order[:limit]])
        return [found[subject] for _, subject in order[:limit] if subject in found]


def count(
    searcher: Searcher, query: Query, among: Sequence[str] | None = None, containing: str = "", most: int = _MOST_TAGS
) -> Counts:
    """Counts of the newest hits, by the time that orders them; `among` these subjects alone."""
    clauses = searcher.clauses(query)
    where = clauses.where if among is None else f"{clauses.where} and subject = any(%(among)s::text[])"
    time = "dated" if query.order == "day" else "last_modified"
    states = " union all ".join(
        f"select 3, '{name}', count(*) filter (where {condition}), null from hits" for name, condition in STATES.items()
    )
    text = f"""
        with hits as materialized (select row_number() over () as place, newest.* from (
            select names[1:{_OF_ONE}] as names, bucket, provenance, corrections from image where {where}
            order by {time} desc limit {COUNTED + 1}) newest),
        above as (select distinct place, parent from hits, unnest(names) name
            join wider using (name), unnest(parents) parent
            where (select exists (select from wider)) and parent <> all (names)),
        each as (select name from hits, unnest(names) name union all select parent from above)
        select 0, '', count(*), null::text[] from hits
        union all (select 1, name, number, parents from (select name, count(*) as number from each
            where %(containing)s = '' or strpos(lower(name), %(containing)s) > 0
            group by name order by number desc, name limit {most}) tags left join wider using (name))
        union all (select 2, bucket, count(*), null from hits
            group by bucket order by 3 desc, bucket limit {_BUCKETS})
        union all {states}"""
    values = clauses.values | {"among": among, "containing": storable(containing).lower()}
    rows = searcher.execute(text, values).fetchall()
    of = [[(name, number) for kind, name, number, _ in rows if kind == wanted] for wanted in range(4)]
    ((_, total),) = of[0]
    tags = sorted(of[1], key=lambda tag: (-tag[1], tag[0]))
    parents = {name: above for kind, name, _, above in rows if kind == 1 and above}
    _, _, buckets, counted = of
    return Counts(min(total, COUNTED), total > COUNTED, tags, buckets, counted, parents=parents)


def why_empty(searcher: Searcher, typed: Typed) -> Why:
    """Which parts empty a result."""

    def finds(text: Typed) -> bool | None:
        """None: it takes too long to know."""
        clauses = searcher.clauses(text.query())
        found = searcher.within(_TRIED_S, f"select from image where {clauses.where} limit 1", clauses.values)
        return None if found is None else bool(found)

    filters = typed.filters[:_PARTS]
    less = [(token.filter.shown, typed.without(token)) for token in filters if token.filter is not None]
    if typed.words and less:
        less.append((typed.words, Typed(typed.filters)))
    parts = [*filters, *(token for token in typed.tokens if token.is_word and token.text[0] != "-")][:_PARTS]
    nothing = [token for token in parts if finds(Typed((token,))) is False]
    return Why(
        bool(searcher.rows(Query(), 1)),
        [token.filter.shown if token.filter else token.text for token in nothing],
        [each for each in less if finds(each[1])],
        _nearest(searcher, typed, nothing),
    )


def _nearest(searcher: Searcher, typed: Typed, nothing: Sequence[Token]) -> list[tuple[str, Typed]]:
    """Tags of the newest pictures, similar to parts without pictures."""
    tokens = [token for token in nothing if token.is_word or token.wanted][:3]
    if not tokens:
        return []
    names = {name.casefold(): name for name, _ in reversed(count(searcher, Query(sort="day"), most=20_000).tags)}
    return [
        (names[close], typed.without(token, named("tag", names[close])))
        for token in tokens
        for close in close_names((token.wanted or (token.text.strip('"'),))[0].casefold()[:100], names)
    ]


def close_names(wanted: str, names: Iterable[str]) -> list[str]:
    """The most similar names, of about the same length and letters; those with its letters in another order first."""
    letters = set(wanted)
    few = [each for each in names if abs(len(each) - len(wanted)) <= 3 and len(letters - set(each)) <= 1]
    few.sort(key=lambda each: len(letters ^ set(each)))
    turned = [each for each in few if sorted(each) == sorted(wanted)]
    return list(dict.fromkeys([*turned, *difflib.get_close_matches(wanted, few[:200], 3, 0.6)]))[:3]


def freshness(searcher: Searcher) -> datetime | None:
    """When the newest outcome in the tables was published; None without any."""
    (at,) = searcher.execute(f"select max(record_at) from progress where {readable('record_at')}").fetchone() or (None,)
    return at


def similar(searcher: Searcher, subject: str) -> list[Found]:
    """The nearest images by embedding, nearest first; empty if the image has no vector."""
    for (number,) in searcher.execute("select number from space order by number").fetchall():
        own = f"(select vector from embedding_{number} where subject = %(subject)s)"
        text = f"""
            select {searcher.clauses(Query()).shown} from embedding_{number} e join image using (subject)
            where {LIVE} and subject <> %(subject)s and e.vector <=> {own} <= 1
            order by e.vector <=> {own} limit {_SIMILAR}"""
        if found := searcher.found(text, {"subject": subject}):
            return found
    return []
