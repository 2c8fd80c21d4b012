"""What the page asks of the tables: pages of the result, counts, one picture, similar pictures."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from psycopg.rows import class_row

from tagstream_index.database import Connection, readable
from tagstream_index.page.query import Query, Token, moment, pattern
from tagstream_index.searching import CANDIDATES, LIVE, bounded

Sort: TypeAlias = Literal["new", "best"]

COUNTED: Final = 5_000
"""Counts are of the newest hits alone."""
_FACETS: Final = 24
_SIMILAR: Final = 12
_ANY: Final = Query()
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_QUERY: Final = "websearch_to_tsquery(%(language)s::regconfig, %(words)s)"
_SHOWN: Final = """subject, bucket, key, version_id, sha256, format, width, height, last_modified, names, scores,
    caption, provenance->>'status' as status, corrections is not null as corrected"""
_STATES: Final = {
    "corrected": "corrections is not null",
    "complete": "provenance->>'status' = 'complete'",
    "partial": "provenance->>'status' = 'partial'",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture of the result. `fit`: how well it fits, by the sort `best`."""

    subject: str
    bucket: str
    key: str
    version_id: str | None
    sha256: str
    format: str
    width: int
    height: int
    last_modified: datetime
    names: list[str]
    scores: list[float]
    caption: str | None
    status: str
    corrected: bool
    fit: float

    def cursor(self, sort: Sort) -> str:
        """The place of this picture in the result, for an address."""
        place = f"{(self.last_modified - _EPOCH) // timedelta(microseconds=1)}~{self.subject}"
        return place if sort == "new" else f"{self.fit!r}~{place}"


class Page(NamedTuple):
    """A part of the result; `earlier` and `later`: there is more."""

    tiles: list[Tile]
    earlier: bool
    later: bool


class Counts(NamedTuple):
    """Of the newest hits: all, by tag, by bucket, by state. `more`: there are older hits besides."""

    total: int
    more: bool
    tags: list[tuple[str, int]]
    buckets: list[tuple[str, int]]
    states: list[tuple[str, int]]


class Why(NamedTuple):
    """Why a result is empty: the index is; or the queries with one filter less that find something."""

    indexed: bool
    without: list[tuple[str, Query]]
    nearest: list[str]


class Cursor(NamedTuple):
    """A place in the result: values of the sort, then the subject."""

    fit: float | None
    time: datetime
    subject: str


def cursor_of(text: str, sort: Sort) -> Cursor | None:
    """The place that an address names; None: it names none."""
    found = re.fullmatch(r"(?:([0-9.e+-]{1,30})~)?(-?\d{1,17})~(.{1,1200})", text, re.DOTALL)
    if found is None or (found[1] is None) != (sort == "new") or re.search("[\0\ud800-\udfff]", found[3]):
        return None
    try:
        fit = None if found[1] is None else float(found[1])
        return Cursor(fit, _EPOCH + timedelta(microseconds=int(found[2])), found[3])
    except (ValueError, OverflowError):
        return None


def can_rank(query: Query) -> bool:
    """Whether there is an order by fit: with words, or a tag that a picture must have."""
    return bool(query.words) or any(not token.minus for token in query.of("tag"))


def find(
    connection: Connection,
    query: Query,
    sort: Sort,
    *,
    after: Cursor | None = None,
    before: Cursor | None = None,
    limit: int,
) -> Page:
    """Pictures of the result after or before a place.

    Raises:
        Unavailable: the database is away, or the search takes longer than 2 s.
    """
    place, back = after or before, before is not None
    order = "last_modified {0}, subject {0}" if sort == "new" else "fit {0}, last_modified {0}, subject {0}"
    with bounded(connection) as language:
        asked: dict[str, Any] = {"language": language, "words": query.words, "limit": limit + 1}
        where = " and ".join(_conditions(query, asked))
        source = "image"
        if sort == "best":
            source = (
                f"(select *, {_fit(query)} as fit from image where {where}"
                f" order by last_modified desc limit {CANDIDATES}) matches"
            )
            where = "true"
        if place is not None:
            asked |= place._asdict()
            left, right = ("last_modified, subject", "%(time)s, %(subject)s")
            if sort == "best":
                left, right = f"fit, {left}", f"%(fit)s::real, {right}"
            where += f" and ({left}) {'>' if back else '<'} ({right})"
        fit = "fit" if sort == "best" else "0::real as fit"
        text = (
            f"select {_SHOWN}, {fit} from {source} where {where}"
            f" order by {order.format('asc' if back else 'desc')} limit %(limit)s"
        )
        with connection.cursor(row_factory=class_row(Tile)) as cursor:
            # Planned with its values: a common word is searched in another way than a rare one.
            tiles = cursor.execute(text.encode(), asked, prepare=False).fetchall()
    more, tiles = len(tiles) > limit, tiles[:limit]
    if back:
        return Page(tiles[::-1], more, True)
    return Page(tiles, place is not None, more)


def count(connection: Connection, query: Query, among: Sequence[str] | None = None) -> Counts:
    """Counts of the newest hits, or of those among these subjects. Raises Unavailable as `find`."""
    with bounded(connection) as language:
        asked: dict[str, Any] = {"language": language, "words": query.words, "among": among}
        where = " and ".join(_conditions(query, asked))
        if among is not None:
            where += " and subject = any(%(among)s::text[])"
        states = " union all ".join(
            f"select 3, '{name}', count(*) filter (where {condition}) from hits" for name, condition in _STATES.items()
        )
        text = f"""
            with hits as materialized (select names, bucket, provenance, corrections from image where {where}
                order by last_modified desc limit {COUNTED + 1})
            select 0, '', count(*) from hits
            union all (select 1, name, count(*) from hits, unnest(names) name
                group by name order by 3 desc, name limit {_FACETS})
            union all (select 2, bucket, count(*) from hits group by bucket order by 3 desc, bucket limit {_FACETS})
            union all {states}"""
        rows = connection.execute(text.encode(), asked, prepare=False).fetchall()
    of = [[(name, number) for kind, name, number in rows if kind == wanted] for wanted in range(4)]
    ((_, total),) = of[0]
    return Counts(min(total, COUNTED), total > COUNTED, *of[1:])


def why_empty(connection: Connection, query: Query) -> Why:
    """Raises Unavailable as `find`."""
    less = [(token.shown, query.without(token)) for token in query.filters]
    if query.words and query.filters:
        less.append((query.words, Query(query.filters)))
    with bounded(connection) as language:
        asked: dict[str, Any] = {"language": language}
        found = ["exists(select from image where not gone)"]
        for number, (_, other) in enumerate(less):
            asked[f"words{number}"] = other.words
            where = " and ".join(_conditions(other, asked, f"{number}_", f"words{number}"))
            found.append(f"exists(select from image where {where})")
        row = connection.execute(f"select {', '.join(found)}".encode(), asked, prepare=False).fetchone() or (False,)
        nearest = _nearest(connection, query)
    return Why(row[0], [each for each, there in zip(less, row[1:], strict=True) if there], nearest)


def _nearest(connection: Connection, query: Query) -> list[str]:
    """Tags of the newest pictures, similar to the wanted tag or word."""
    wanted = [token.values[0] for token in query.of("tag") if not token.minus]
    if len(query.tokens) == 1:
        wanted += [token.values[0].strip('"') for token in query.of("word")]
    if not wanted:
        return []
    text = f"""select distinct name from (select names from image where not gone
        order by last_modified desc limit {COUNTED}) newest, unnest(names) name"""
    found = {name for (name,) in connection.execute(text.encode())}
    names = {name.casefold(): name for name in found}
    near = [close for each in wanted[:3] if each not in found for close in _close(each.casefold()[:100], names)]
    return [names[each] for each in dict.fromkeys(near)]


def _close(wanted: str, names: Iterable[str]) -> list[str]:
    """The most similar names, of about the same length and letters."""
    letters = set(wanted)
    few = [each for each in names if abs(len(each) - len(wanted)) <= 3 and len(letters - set(each)) <= 1]
    few.sort(key=lambda each: len(letters ^ set(each)))
    return difflib.get_close_matches(wanted, few[:200], 3, 0.6)


def freshness(connection: Connection) -> datetime | None:
    """When the newest outcome in the tables was published; None: there is none. Raises Unavailable as `find`."""
    with bounded(connection):
        newest = f"select max(record_at) from progress where {readable('record_at')}"
        (at,) = connection.execute(newest.encode()).fetchone() or (None,)
        return at


def tiles(connection: Connection, subjects: Sequence[str], query: Query = _ANY) -> dict[str, Tile]:
    """Pictures by subject, with their fit to a query. Raises Unavailable as `find`."""
    with bounded(connection) as language, connection.cursor(row_factory=class_row(Tile)) as cursor:
        known = [subject for subject in subjects if "\0" not in subject]
        asked: dict[str, Any] = {"language": language, "words": query.words, "subjects": known}
        list(_conditions(query, asked))
        text = f"select {_SHOWN}, {_fit(query)} as fit from image where subject = any(%(subjects)s) and {LIVE}"
        return {each.subject: each for each in cursor.execute(text.encode(), asked)}


def tile(connection: Connection, subject: str, query: Query = _ANY) -> Tile | None:
    """The picture of a subject; None: there is none. As `tiles`."""
    return tiles(connection, [subject], query).get(subject)


def contents(connection: Connection, subjects: list[str]) -> dict[str, str]:
    """The sha256 of pictures by subject; none of removed ones. Raises Unavailable as `find`."""
    with bounded(connection):
        text = b"select subject, sha256 from image where subject = any(%s) and not gone"
        return dict(connection.execute(text, (subjects,)).fetchall())


def similar(connection: Connection, subject: str) -> list[Tile]:
    """The nearest pictures by embedding, nearest first; none without vectors. Raises Unavailable as `find`."""
    with bounded(connection):
        for (number,) in connection.execute("select number from space order by number").fetchall():
            own = f"(select vector from embedding_{number} where subject = %(subject)s)"
            text = f"""
                select {_SHOWN}, 0::real as fit from embedding_{number} e join image using (subject)
                where {LIVE} and subject <> %(subject)s and e.vector <=> {own} <= 1
                order by e.vector <=> {own} limit {_SIMILAR}"""
            with connection.cursor(row_factory=class_row(Tile)) as cursor:
                if found := cursor.execute(text.encode(), {"subject": subject}).fetchall():
                    return found
    return []


def _fit(query: Query) -> str:
    """How well a picture fits: the rank of the words, or the lowest score of the wanted tags."""
    if query.words:
        return f"ts_rank_cd(words, {_QUERY})"
    best = "coalesce((select max(s) from unnest(names, scores) pair (n, s) where n = any(%({})s)), 0)"
    groups = [best.format(f"tag{number}") for number, token in enumerate(query.tokens) if _wanted(token)]
    return f"least({', '.join(groups)})" if groups else "0::real"


def _wanted(token: Token) -> bool:
    return token.kind == "tag" and not token.minus


def _conditions(
    query: Query, asked: dict[str, Any], mark: str = "", words: str = "words", now: datetime | None = None
) -> Iterator[str]:
    """The query as SQL; its values go into `asked`, under names that begin with the kind of the token and `mark`."""
    yield LIVE
    if query.words:
        yield f"words @@ {_QUERY.replace('words', words)}"
    tags = [f"tag{mark}{number}" for number, token in enumerate(query.tokens) if _wanted(token)]
    for number, token in enumerate(query.tokens):
        if token.kind != "word":
            name = f"{token.kind}{mark}{number}"
            condition = _condition(token, name, tags, asked, now)
            yield f"not ({condition})" if token.minus else condition


def apart(query: Query, asked: dict[str, Any]) -> Iterator[str]:
    """As `_conditions`, of all but the words; those that a picture must not have hold too."""
    yield from _conditions(Query(query.filters), asked)
    if query.excluded:
        asked["excluded"] = query.excluded
        yield f"not words @@ {_QUERY.replace('words', 'excluded')}"


def _condition(token: Token, name: str, tags: Sequence[str], asked: dict[str, Any], now: datetime | None) -> str:
    values = list(token.values)
    asked[name] = values
    match token.kind:
        case "tag":
            return f"names && %({name})s::text[]"
        case "bucket":
            return f"bucket = any(%({name})s)"
        case "model":
            return f"provenance #>> '{{models,tagger,name}}' = any(%({name})s)"
        case "is":
            return f"({' or '.join(_STATES[value] for value in values)})"
        case "key":
            asked[name] = [pattern(value) for value in values]
            asked[f"{name}prefix"] = values[0].partition("*")[0]
            begins = f"starts_with(key, %({name}prefix)s) and " if len(values) == 1 else ""
            return f"{begins}key like any(%({name})s)"
        case "score":
            asked[name] = float(values[0])
            over = f"s {token.sign} %({name})s::real"
            if not tags:
                return f"exists(select from unnest(scores) s where {over})"
            each = "exists(select from unnest(names, scores) pair (n, s) where n = any(%({})s) and " + over + ")"
            return " and ".join(each.format(tag) for tag in tags)
    asked[name] = moment(values[0], now)
    return f"last_modified {'>=' if token.kind == 'since' else '<'} %({name})s"
