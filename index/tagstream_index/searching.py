"""Search the index: a query as SQL, and its answer as rows, by words, by nearness, or by both as one list."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Final, NamedTuple, TypeAlias

import psycopg
from pgvector import HalfVector
from psycopg.rows import class_row

from tagstream_index.database import Connection, connected, limited, readable
from tagstream_index.query import STATES, Embedding, Filter, Query, moment, pattern, period, require, storable
from tagstream_index.results import MARK
from workers.errors import Misconfigured, Unavailable
from workers.models.result_kinds import added_kinds

STATEMENT_S: Final = 2
"""The server's limit for a statement of a search."""
CUT_S: Final = 3.0 * STATEMENT_S
"""The limit for all statements of a search, also where the server hangs."""
MOST_RESULTS: Final = 1_000
MOST_OFFSET: Final = 10_000
CANDIDATES: Final = 2_000
"""Rank and score order only the newest matches: a common word matches half of an index."""
COMPARED: Final = 3_000
"""Up to this number, images that meet the conditions are compared one by one: HNSW would search long for them."""
FUSED: Final = 1_000
"""The length of each ranking where words and a sentence make one list."""
_RANK_OFFSET: Final = 60

LIVE: Final = f"not gone and {readable('last_modified')}"
"""SQL: the rows that are read. `index check` names live rows that can't be."""
_BEGIN: Final = f"""
select language::text, set_config('statement_timeout', '{STATEMENT_S}s', true),
    set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', '100', true), results
from state
""".encode()
_TSQUERY: Final = "websearch_to_tsquery(%(language)s::regconfig, %(words)s)"
_RANK: Final = f"ts_rank_cd('{{0.001, 0.1, 0.4, 1}}', words, {_TSQUERY})"
"""Of results' words, keys, captions, tags: a word may be 256 times in a text, and its tag still comes first."""
_AGAIN: Final = re.compile(r"(?:-\s*){2,}")
"""PostgreSQL nests them, at most 32."""
_LOWEST: Final = "(select min(scores[array_position(names, tag)]) from unnest(%(tags)s::text[]) tag)"
_BEST: Final = "(select max(s) from unnest(names, scores) as tag (n, s) where n = any(%({})s::text[]))"
_BEST_OF_ALL: Final = "coalesce(scores[1], 0)"  # tags are ordered by score
_SIGNS: Final = (">", ">=", "<", "<=")
_NARROWER: Final = """select wanted, array(select name from wider where parents @> array[wanted] limit 1000)
    from unnest(%(wanted)s::text[]) wanted"""
_OF_RESULT: Final = """words @@ {query} and ts_filter(words, '{{d}}') @@ {query}
    and case when split_part(result_words, chr(30), 4) = '' then starts_with(result_words, %({name}of)s)
    else to_tsvector(%(language)s::regconfig,
        translate(split_part(split_part(result_words, %({name}of)s, 2), chr(30), 1), '<', ' ')) @@ {query} end"""
"""Where an image has the words of several results, those of the kind are read again."""
_LINES: Final = r"""
select subject, line from websearch_to_tsquery(%(language)s::regconfig, %(words)s) wanted, image, lateral (
    select line from (
        select (regexp_matches(regexp_replace(result_words, '\u001e[a-z-]+\u001e', chr(10), 'g'),
            '[^\n]{1,160}(?!\S)', 'g'))[1] as line limit 500
    ) lines, to_tsvector(%(language)s::regconfig, translate(line, '<', ' ')) of_line
    where of_line @@ wanted order by ts_rank(of_line, wanted) desc limit 1
) best where subject = any(%(subjects)s::text[]) and ts_filter(words, '{d}') @@ wanted
"""
_LINES_S: Final = 0.5
_DISTANCE: Final = "e.vector <=> %(vector)s"
_SHOWN: Final = """subject, bucket, key, version_id, sha256, last_modified, format, width, height, bytes, names, scores,
    caption, dated, taken_local, taken_offset, provenance->>'status' as status, corrections is not null as corrected,
    orientation, thumbhash, etag, provenance->'read' as read"""

_Data: TypeAlias = bytes
"""`Found.bytes` hides the type's own name."""
_NOT_JSON: Final = ("dated", "taken_local", "taken_offset", "orientation", "thumbhash", "etag", "read")


@dataclass(frozen=True, slots=True)
class Found:
    """An image that was found.

    Args:
        last_modified: of the object, UTC.
        dated: the local time by which it is ordered by day: `taken_local`, or `last_modified` without one or if that is
            more than a day older.
        taken_local: as the picture says; `taken_offset` are its minutes from UTC, if it says them.
        names: of its tags, best first; `scores` are theirs, 0 to 1.
        rank: how well it fits the words, from 0 on; None without words, or if only the sentence found it.
        score: its score in the search, as `Query` defines it; None without a wanted tag.
        distance: cosine distance, 0 to 2; None without embedding, or if only the words found it.
        status: `complete` or `partial`.
        corrected: whether a person corrected its tags.
        orientation, thumbhash, etag: as the event has them.
        read: the rendition that was read, as `source.read` of the event; None: the object itself.
        line: the line of a result that fits the words best, if one does.
    """

    subject: str
    bucket: str
    key: str
    version_id: str | None
    sha256: str
    last_modified: datetime
    format: str
    width: int
    height: int
    bytes: int
    names: list[str]
    scores: list[float]
    caption: str | None
    dated: datetime
    taken_local: datetime | None
    taken_offset: int | None
    rank: float | None
    score: float | None
    status: str
    corrected: bool
    orientation: int | None
    thumbhash: _Data | None
    etag: str = ""
    read: Mapping[str, Any] | None = None
    distance: float | None = None
    line: str | None = None

    @property
    def by_taken(self) -> bool:
        """Whether `dated` is the time when the picture was taken."""
        return self.dated == self.taken_local

    @property
    def taken_at(self) -> str | None:
        """`taken_local` with its offset, as the event has it."""
        if self.taken_local is None:
            return None
        zone = None if self.taken_offset is None else timezone(timedelta(minutes=self.taken_offset))
        return self.taken_local.replace(tzinfo=zone).isoformat().replace("+00:00", "Z")

    def document(self) -> dict[str, Any]:
        """As JSON, without fields that are None."""
        values = {name: getattr(self, name) for name in self.__slots__ if name not in _NOT_JSON}
        fields = {name: value for name, value in values.items() if value is not None}
        fields |= {"taken_at": self.taken_at} if self.taken_at else {}
        fields["last_modified"] = self.last_modified.isoformat().replace("+00:00", "Z")
        pairs = zip(fields.pop("names"), fields.pop("scores"), strict=True)
        return fields | {"tags": [{"name": name, "score": round(score, 6)} for name, score in pairs]}


class Place(NamedTuple):
    """A place in an order: rank or score, time and subject; `fit` is None by time or day, `time` is local by day."""

    fit: float | None
    time: datetime
    subject: str


class Ranking(NamedTuple):
    """Images near a sentence, with words as one list: fit and subject, best first; `ranks`, `distances` by subject."""

    order: list[tuple[float, str]]
    cut: bool
    """There are more, in no order."""
    ranks: Mapping[str, float]
    distances: Mapping[str, float]


def search(
    query: Query | None = None, connection: Connection | None = None, *, limit: int = 20, offset: int = 0
) -> list[Found]:
    """Images that meet all conditions of a query, best first.

    Args:
        query: None: the newest images.
        connection: of `connected`; None: a new one by TAGSTREAM_INDEX_DSN.
        limit: most images, 1 to 1,000.
        offset: images to leave out, 0 to 10,000: for the next page.

    Raises:
        Misconfigured: an argument is wrong, or the index has no embeddings of that space.
        Unavailable: the database is away, or the search takes longer than 2 s.
    """
    require(1 <= limit <= MOST_RESULTS, f"a search gives 1 to {MOST_RESULTS:,} images, not {limit:,}")
    require(0 <= offset <= MOST_OFFSET, f"an offset is 0 to {MOST_OFFSET:,}, not {offset:,}: narrow the search")
    with nullcontext(connection) if connection else closing(connected()) as opened, searching(opened) as searcher:
        return searcher.lined(query or Query(), searcher.search(query or Query(), limit, offset))


@contextmanager
def searching(connection: Connection) -> Iterator[Searcher]:
    """A transaction with the time limits of a search.

    Raises:
        Unavailable: the database is away, or a statement took longer than 2 s (`fault` too-slow).
    """
    with limited(connection, CUT_S):
        try:
            with connection.transaction():
                (language, *_, results) = connection.execute(_BEGIN).fetchone() or ("simple", ())
                yield Searcher(connection, language, results)
        except psycopg.errors.QueryCanceled as error:
            advice = "Ask for rarer words, or narrow it by a tag, a bucket, a prefix or a time."
            said = f"the search took longer than {STATEMENT_S} s"
            raise Unavailable("postgresql", said, fault="too-slow", advice=advice) from error


class Clauses(NamedTuple):
    """A query as SQL: conditions, rank and score of an image, the columns of `Found`, and all parameters."""

    where: str
    rank: str
    score: str
    shown: str
    values: dict[str, Any]


class Searcher:
    """Runs queries within one transaction; the tables have a text search configuration, and kinds of results."""

    def __init__(self, connection: Connection, language: str, results: Sequence[str] = ()) -> None:
        self.connection, self._results = connection, results
        self.results = {*results, *added_kinds()}
        """The names of the results' kinds that can be searched."""
        self._language = language
        self._narrower: dict[str, list[str]] = {}

    def search(self, query: Query, limit: int, offset: int) -> list[Found]:
        """As the function `search`."""
        if query.near is None:
            return self.rows(query, limit, offset)
        if query.about is None or not query.sentence:
            return self._nearest(query, limit, offset)
        ranking = self.ranking(query)
        found = self.of_subjects([subject for _, subject in ranking.order[offset : offset + limit]], query)
        return [
            replace(found[each], rank=ranking.ranks.get(each), distance=ranking.distances.get(each))
            for _, each in ranking.order
            if each in found
        ]

    def rows(
        self, query: Query, limit: int, offset: int = 0, *, place: Place | None = None, back: bool = False
    ) -> list[Found]:
        """Images in the order of the query; those before a place (`back`) nearest to it first."""
        clauses, most, fit = self.clauses(query), limit + offset, query.order
        by_time, time = fit in ("time", "day"), "dated" if fit == "day" else "last_modified"
        columns, keys, there = f"{time}, subject", [time, "subject"], "%(time)s, %(subject)s"
        if not by_time:
            columns, keys = f"{clauses.rank if fit == 'rank' else clauses.score}, {columns}", [fit, *keys]
            there = f"%(fit)s::real, {there}"
        behind = f"({columns}) {'>' if back else '<'} ({there})" if place else "true"
        by = ", ".join(f"{key} {'asc' if back else 'desc'}" for key in keys)
        source = f"select * from image where {clauses.where}"
        if by_time:
            source += f" and {behind} order by {by} limit {most}"
            behind = "true"
        else:
            source += f" order by last_modified desc, subject desc limit {max(CANDIDATES, most)}"
        text = f"select {clauses.shown} from ({source}) matches where {behind} order by {by}"
        values = clauses.values | (place._asdict() if place else {})
        return self.found(f"{text} limit {limit} offset {offset}", values)

    def of_subjects(self, subjects: Sequence[str], query: Query | None = None) -> dict[str, Found]:
        """Images by subject, with rank and score in a query. They need not meet it."""
        clauses = self.clauses(query or Query())
        text = f"select {clauses.shown} from image where subject = any(%(subjects)s::text[]) and {LIVE}"
        known = [subject for subject in subjects if storable(subject) == subject]
        return {each.subject: each for each in self.found(text, clauses.values | {"subjects": known})}

    def lined(self, query: Query, found: Sequence[Found]) -> list[Found]:
        """The images with the lines of their results that fit best; without if that takes long."""
        lines = dict[str, str]()
        if self._results and query.some and found:
            values = {"language": self._language, "words": _AGAIN.sub("-", storable(query.some))}
            lines |= self.within(_LINES_S, _LINES, values | {"subjects": [each.subject for each in found]}) or ()
        return [replace(each, line=lines.get(each.subject)) for each in found]

    def ranking(self, query: Query) -> Ranking:
        """The images near the query's sentence, with words one list. Raises as `search`."""
        text, values = self._near(query, "subject", FUSED)
        distances = dict(self.execute(f"{text}, subject", values).fetchall())
        ranks: dict[str, float] = {}
        if query.sentence:
            by_words = self.rows(replace(query, about=None, within=None), FUSED)
            ranks = {each.subject: each.rank or 0.0 for each in by_words}
        cut = FUSED in (len(distances), len(ranks))
        return Ranking(fused(list(distances), list(ranks)), cut, ranks, distances)

    def _nearest(self, query: Query, limit: int, offset: int) -> list[Found]:
        text, values = self._near(query, self.clauses(query).shown, limit + offset)
        return self.found(f"{text}, subject limit {limit} offset {offset}", values)

    def _near(self, query: Query, shown: str, most: int) -> tuple[str, dict[str, Any]]:
        """SQL of the images nearest to the query's vector, and its parameters."""
        near, clauses = query.near, self.clauses(query)
        assert near is not None
        table, few = f"embedding_{self._space_number(near)}", self._few(clauses)
        if few is None:
            source = f"""(select i.*, {_DISTANCE} as distance from {table} e join image i using (subject)
                where {clauses.where} order by {_DISTANCE} limit {most}) nearest"""
        else:
            chosen = f"select subject, {_DISTANCE} as distance from {table} e where subject = any(%(few)s) offset 0"
            source = f"""(select * from ({chosen}) few order by distance limit {most}) nearest
                join image using (subject)"""
        values = clauses.values | {"vector": HalfVector(near.vector), "within": query.reach, "few": few}
        met = "not gone and distance <= %(within)s"
        return f"select {shown}, distance from {source} where {met} order by distance", values

    def _few(self, clauses: Clauses) -> list[str] | None:
        """The images that meet the conditions; None: more than are compared."""
        matches = f"select subject from image where {clauses.where} limit {COMPARED + 1}"
        ((plan,),) = self.execute(f"explain (format json) {matches}", clauses.values).fetchall()
        if plan[0]["Plan"]["Plan Rows"] > COMPARED:  # to find them takes as long as to compare them
            return None
        found = self.execute(matches, clauses.values).fetchall()
        return None if len(found) > COMPARED else [subject for (subject,) in found]

    def _space_number(self, near: Embedding) -> int:
        spaces = self.execute("select name, dimensions, number from space order by number").fetchall()
        mine = (near.space, len(near.vector))
        if number := next((number for *space, number in spaces if tuple(space) == mine), 0):
            return int(number)
        has = " and ".join(f"{name} ({dimensions:,} dimensions)" for name, dimensions, _ in spaces)
        has = f"those of {has}" if has else "no embeddings: its images were tagged without (TAGSTREAM_WANT)"
        is_of = f"the embedding is of the space {near.space} ({len(near.vector):,} dimensions)"
        raise Misconfigured(f"{is_of}, and the index has {has}")

    def clauses(self, query: Query) -> Clauses:
        """The query as SQL."""
        conditions = self._widened(query.conditions)
        single = [each for each in conditions if each.wants_tag and len(each.values) == 1]
        others = [(f"{each.kind}{n}", each) for n, each in enumerate(conditions) if each not in single]
        best = [_BEST.format(name) for name, each in others if each.wants_tag]
        values: dict[str, Any] = {"language": self._language, "words": _AGAIN.sub("-", storable(query.words))}
        where, rank = [LIVE], "null::real"
        if query.about is not None:
            values["words"] = _AGAIN.sub("-", storable(query.excluded))
            where += [f"not words @@ {_TSQUERY}"] if query.excluded else []
        elif query.words.strip():
            rank = _RANK
            where.append(f"words @@ {_TSQUERY}")
        if single:
            values["tags"] = [storable(each.values[0]) for each in single]
            where.append("names @> %(tags)s::text[]")
            best.append(_LOWEST)
        score = f"least({', '.join(best)})" if best else _BEST_OF_ALL
        for name, each in others:
            condition = _condition(each, name, score, values)
            where.append(f"not ({condition})" if each.excluded else condition)
        shown = f"{_SHOWN}, {rank} as rank, {score if best else 'null::real'} as score"
        return Clauses(" and ".join(where), rank, score, shown, values)

    def _widened(self, conditions: Sequence[Filter]) -> list[Filter]:
        """The conditions, in which a tag stands for those below too."""
        wanted = {storable(name) for each in conditions if each.kind == "tag" for name in each.values}
        if new := wanted - self._narrower.keys():
            self._narrower |= self.execute(_NARROWER, {"wanted": sorted(new)}).fetchall()
        return [each._replace(values=self._below(each.values)) if each.kind == "tag" else each for each in conditions]

    def _below(self, names: Sequence[str]) -> tuple[str, ...]:
        """Tags, and those below them."""
        return tuple(dict.fromkeys([*names, *(each for name in names for each in self._narrower[storable(name)])]))

    def execute(self, text: str, values: Mapping[str, Any] | None = None) -> psycopg.Cursor[Any]:
        """Run a statement."""
        # Planned with its values: a common word is searched in another way than a rare one.
        return self.connection.execute(text.encode(), values, prepare=None if values is None else False)

    @contextmanager
    def quick(self, seconds: float = STATEMENT_S) -> Iterator[None]:
        """Limit the statements of the body; many look-ups don't gain by workers and compilation."""
        with self.connection.transaction(force_rollback=True):  # to the settings before
            limits = f"statement_timeout = {seconds * 1000:.0f}", "max_parallel_workers_per_gather = 0", "jit = off"
            self.connection.execute("; ".join(f"set local {each}" for each in limits).encode())
            yield

    def within(self, seconds: float, text: str, values: Mapping[str, Any]) -> list[Any] | None:
        """The rows of a statement; None: it takes longer."""
        try:
            with self.quick(seconds):
                return self.execute(text, values).fetchall()
        except psycopg.errors.QueryCanceled:
            return None

    def found(self, text: str, values: Mapping[str, Any]) -> list[Found]:
        """The rows of a statement that selects `Clauses.shown`."""
        with self.connection.cursor(row_factory=class_row(Found)) as cursor:
            return cursor.execute(text.encode(), values, prepare=False).fetchall()


def fused(*rankings: Sequence[str]) -> list[tuple[float, str]]:
    """Rankings of subjects as one: score and subject, best first.

    Each ranking adds 1 / (60 + place) to a subject's score: reciprocal rank fusion (Cormack, Clarke and Büttcher 2009).
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for place, subject in enumerate(ranking, 1):
            scores[subject] = scores.get(subject, 0) + 1 / (_RANK_OFFSET + place)
    return sorted(((score, subject) for subject, score in scores.items()), reverse=True)


def _condition(filter_: Filter, name: str, score: str, values: dict[str, Any]) -> str:
    """The SQL of a filter; its value goes into `values`."""
    texts = [storable(each) for each in filter_.values]
    values[name] = texts
    match filter_.kind:
        case "tag":
            return f"names && %({name})s::text[]"
        case "bucket":
            return f"bucket = any(%({name})s)"
        case "model":
            return f"provenance #>> '{{models,tagger,name}}' = any(%({name})s)"
        case "is":
            return f"({' or '.join(STATES[each] for each in texts)})"
        case "score":
            require(filter_.sign in _SIGNS, f"a score is compared by one of {', '.join(_SIGNS)}, not {filter_.sign!r}")
            values[name] = float(texts[0])
            return f"{score} {filter_.sign} %({name})s::real"
        case "taken":
            return _taken(filter_, name, values)
        case "result":
            values |= {f"{name}{n}": text for n, text in enumerate(texts)} | {f"{name}of": f"{MARK}{filter_.of}{MARK}"}
            each = (f"phraseto_tsquery(%(language)s::regconfig, %({name}{n})s)" for n in range(len(texts)))
            return _OF_RESULT.format(name=name, query=f"({' || '.join(each)})")
        case "subject" | "prefix":
            values[name] = texts[0]
            return f"starts_with({'subject' if filter_.kind == 'subject' else 'key'}, %({name})s)"
        case "key":
            values[name] = [pattern(each) for each in texts]
            values[f"{name}prefix"] = texts[0].partition("*")[0]
            begins = f"starts_with(key, %({name}prefix)s) and " if len(texts) == 1 else ""
            return f"{begins}key like any(%({name})s)"
    values[name] = moment(texts[0])
    return f"last_modified {'>=' if filter_.kind == 'since' else '<'} %({name})s"


def _taken(filter_: Filter, name: str, values: dict[str, Any]) -> str:
    found = period(filter_.values[0])
    require(found is not None, f"a time is 2026, 2026-05 or 2026-05-31, not {filter_.values[0]!r}")
    values[f"{name}begin"], values[f"{name}end"] = found or (None, None)
    begin, end = f"%({name}begin)s", f"%({name}end)s"
    match filter_.sign:
        case "":
            return f"dated >= {begin} and dated < {end}"
        case ">" | "<=":
            return f"dated {'>=' if filter_.sign == '>' else '<'} {end}"
    require(filter_.sign in _SIGNS, f"a time is compared by one of {', '.join(_SIGNS)}, not {filter_.sign!r}")
    return f"dated {filter_.sign} {begin}"
