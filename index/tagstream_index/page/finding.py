"""The page's searches: parts of a result with places between them, counts, similar pictures."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from tagstream_index.copies import months
from tagstream_index.database import readable
from tagstream_index.page.typed import Typed
from tagstream_index.query import STATES, Query, storable
from tagstream_index.searching import LIVE, Found, Place, Ranking, Searcher

COUNTED: Final = 5_000
"""Only the newest hits are counted."""
_FACETS: Final = 24
_SIMILAR: Final = 12
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Page(NamedTuple):
    """A part of the result; `earlier` and `later`: there is more."""

    found: list[Found]
    earlier: bool
    later: bool


class Counts(NamedTuple):
    """Numbers of the newest hits: all, by tag, by bucket, by state, by month. `more`: there are older hits too."""

    total: int
    more: bool
    tags: list[tuple[str, int]]
    buckets: list[tuple[str, int]]
    states: list[tuple[str, int]]
    months: Sequence[tuple[str, int]] = ()


class Why(NamedTuple):
    """Why a result is empty: the index is; or the texts with one filter less that find something."""

    indexed: bool
    without: list[tuple[str, Typed]]
    nearest: list[str]


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
        """Images after or before a place; without one the first ones."""
        place, back = after or before, before is not None
        if self.ranking is not None:
            found = self._ranked(self.ranking, place, limit + 1, back=back)
        else:
            found = self._searcher.rows(self.query, limit + 1, place=place, back=back)
        more, found = len(found) > limit, found[:limit]
        return Page(found[::-1], more, True) if back else Page(found, place is not None, more)

    def counts(self) -> Counts:
        """Counts of the newest hits; by meaning, of all that are ranked."""
        query, among = (self.query, None) if self.ranking is None else (Query(), list(self._fits))
        counts = count(self._searcher, query, among)
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
            order = (
                [each for each in reversed(order) if each > here] if back else [each for each in order if each < here]
            )
        found = self._searcher.of_subjects([subject for _, subject in order[:limit]])
        return [found[subject] for _, subject in order[:limit] if subject in found]


def count(searcher: Searcher, query: Query, among: Sequence[str] | None = None) -> Counts:
    """Counts of the newest hits, or of those among these subjects."""
    clauses = searcher.clauses(query)
    where = clauses.where if among is None else f"{clauses.where} and subject = any(%(among)s::text[])"
    states = " union all ".join(
        f"select 3, '{name}', count(*) filter (where {condition}) from hits" for name, condition in STATES.items()
    )
    text = f"""
        with hits as materialized (select names, bucket, provenance, corrections from image where {where}
            order by last_modified desc limit {COUNTED + 1})
        select 0, '', count(*) from hits
        union all (select 1, name, count(*) from hits, unnest(names) name
            group by name order by 3 desc, name limit {_FACETS})
        union all (select 2, bucket, count(*) from hits group by bucket order by 3 desc, bucket limit {_FACETS})
        union all {states}"""
    rows = searcher.execute(text, clauses.values | {"among": among}).fetchall()
    of = [[(name, number) for kind, name, number in rows if kind == wanted] for wanted in range(4)]
    ((_, total),) = of[0]
    return Counts(min(total, COUNTED), total > COUNTED, *of[1:])


def why_empty(searcher: Searcher, typed: Typed) -> Why:
    """Which conditions empty a result."""
    less = [(token.filter.shown, typed.without(token)) for token in typed.tokens if token.filter is not None]
    if typed.words and less:
        less.append((typed.words, Typed(typed.filters)))
    indexed = bool(searcher.rows(Query(), 1))
    return Why(indexed, [each for each in less if searcher.rows(each[1].query(), 1)], _nearest(searcher, typed))


def _nearest(searcher: Searcher, typed: Typed) -> list[str]:
    """Tags of the newest images, similar to the wanted tag or word."""
    wanted = [each.values[0] for each in typed.query().conditions if each.wants_tag]
    if len(typed.tokens) == 1 and typed.words:
        wanted.append(typed.words.strip('"'))
    if not wanted:
        return []
    text = f"""select distinct name from (select names from image where not gone
        order by last_modified desc limit {COUNTED}) newest, unnest(names) name"""
    found = {name for (name,) in searcher.execute(text)}
    names = {name.casefold(): name for name in found}
    near = [close for each in wanted[:3] if each not in found for close in _close(each.casefold()[:100], names)]
    return [names[each] for each in dict.fromkeys(near)]


def _close(wanted: str, names: Iterable[str]) -> list[str]:
    """The most similar names, of about the same length and letters."""
    letters = set(wanted)
    few = [each for each in names if abs(len(each) - len(wanted)) <= 3 and len(letters - set(each)) <= 1]
    few.sort(key=lambda each: len(letters ^ set(each)))
    return difflib.get_close_matches(wanted, few[:200], 3, 0.6)


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
