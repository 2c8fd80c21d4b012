"""Search the index: words, filters, nearest embeddings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import HalfVector
from psycopg.rows import kwargs_row

from tagstream_index.database import Connection, connect, limited, require_tables
from tagstream_index.settings import IndexSettings
from workers.cli.needs import needed_of
from workers.errors import Misconfigured, Unavailable

Sort = Literal["rank", "score", "time"]

STATEMENT_S: Final = 2
"""The server's limit for a search."""
_CUT_S: Final = 3.0 * STATEMENT_S  # where the server hangs
MOST_RESULTS: Final = 1_000
MOST_OFFSET: Final = 10_000
CANDIDATES: Final = 2_000
"""Rank and score order the newest matches alone: a common word matches half of an index."""
COMPARED: Final = 3_000
"""So few images that meet the conditions are compared one by one: HNSW would search long for them."""
_WORDS_CHARS: Final = 1_000
_NAME_CHARS: Final = 1_088
"""No tag, bucket or key in the index is longer."""
_MOST_TAGS: Final = 20
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")

_BEGIN: Final = f"""
select language::text, set_config('statement_timeout', '{STATEMENT_S}s', true),
    set_config('hnsw.iterative_scan', 'strict_order', true), set_config('hnsw.ef_search', '100', true)
from state
""".encode()
_QUERY: Final = "websearch_to_tsquery(%(language)s::regconfig, %(words)s)"
_SCORE: Final = "(select min(scores[array_position(names, tag)]) from unnest(%(tags)s::text[]) tag)"
_DISTANCE: Final = "e.vector <=> %(vector)s"
_SHOWN: Final = (
    "subject, bucket, key, version_id, sha256, last_modified, format, width, height, bytes, names, scores, caption"
)
_ORDERS: Final = {"rank": "rank desc", "score": "score desc", "time": "last_modified desc", "distance": "distance"}


class Embedding(NamedTuple):
    """The name of a space and a vector in it: (dimensions,), length 1."""

    space: str
    vector: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Found:
    """An image that was found.

    Args:
        last_modified: of the object, UTC.
        names: of its tags, best first; `scores` are theirs, 0 to 1.
        rank: how well it fits the words, from 0 on; None without words.
        score: the lowest score of the wanted tags; None without.
        distance: cosine distance, 0 to 2; None without embedding.
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
    rank: float | None
    score: float | None
    distance: float | None

    def document(self) -> dict[str, Any]:
        """As JSON; what is None is left out."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        fields["last_modified"] = self.last_modified.isoformat().replace("+00:00", "Z")
        pairs = zip(fields.pop("names"), fields.pop("scores"), strict=True)
        return fields | {"tags": [{"name": name, "score": round(score, 6)} for name, score in pairs]}


def connected(settings: IndexSettings) -> Connection:
    """A connection for many searches, one at a time.

    Raises:
        Unavailable, Misconfigured: as `search`, and there are no tables of this version.
    """
    connection = connect(settings)
    try:
        with limited(connection):
            require_tables(connection, settings.index_schema)
    except BaseException:
        connection.close()
        raise
    return connection


def search(
    words: str = "",
    *,
    connection: Connection | None = None,
    tags: Sequence[str] = (),
    min_score: float | None = None,
    since: datetime | None = None,
    bucket: str | None = None,
    prefix: str | None = None,
    like: Embedding | None = None,
    within: float = 0.3,
    sort: Sort | None = None,
    limit: int = 20,
    offset: int = 0,
) -> list[Found]:
    """Images that meet all conditions, best first; removed ones never.

    Args:
        words: in tags, caption, name and translations: `red car`, `"red car"`, `car or bus`, `car -red`. Any text will
            do.
        connection: of `connected`; None: a new one by TAGSTREAM_INDEX_DSN.
        tags: names of tags that an image must all have.
        min_score: lowest score of each of `tags`, 0 to 1.
        since: earliest `last_modified`, with a time zone.
        prefix: that keys begin with.
        like: images near this embedding, the nearest first.
        within: largest cosine distance from `like`, 0 to 2.
        sort: `rank` (of words; the default with words), `score` (the lowest of `tags`) or `time` (of `last_modified`,
            newest first; the default without words). Rank and score order the newest 2,000 matches. Not with `like`.
        limit: most images, 1 to 1,000.
        offset: images to leave out, 0 to 10,000: for the next page.

    Raises:
        Misconfigured: an argument is wrong, or the index has no embeddings of that space.
        Unavailable: the database is away, or the search takes longer than 2 s.
    """
    order = _order(words, tags, like, sort)
    _require(min_score is None or (bool(tags) and 0 <= min_score <= 1), "a lowest score is 0 to 1, and needs a tag")
    _require(0 <= within <= 2, f"a cosine distance is 0 to 2, not {within}")
    _require(1 <= limit <= MOST_RESULTS, f"a search gives 1 to {MOST_RESULTS:,} images, not {limit:,}")
    _require(0 <= offset <= MOST_OFFSET, f"an offset is 0 to {MOST_OFFSET:,}, not {offset:,}: narrow the search")
    _require(len(tags) <= _MOST_TAGS, f"a search takes {_MOST_TAGS} tags, not {len(tags):,}")
    place = _bounded("prefix", prefix or "", _NAME_CHARS)
    if bucket:
        place = f"{_bounded('bucket', bucket, _NAME_CHARS)}/{place}"
    asked = {
        "words": _bounded("query", words, _WORDS_CHARS).strip(),
        "tags": [_bounded("tag", tag, _NAME_CHARS) for tag in tags],
        "min_score": min_score,
        "since": since,
        "subject" if bucket else "key": place,
        "vector": None if like is None else HalfVector(like.vector),
        "within": within,
        "limit": limit,
        "offset": offset,
        "end": limit + offset,
    }
    if connection is not None:
        return _answer(connection, asked, order, like)
    with closing(connected(needed_of(IndexSettings, "index_dsn"))) as own:
        return _answer(own, asked, order, like)


def _order(words: str, tags: Sequence[str], like: Embedding | None, sort: Sort | None) -> str:
    if like is not None:
        _require(sort is None, f"the nearest come first: leave the sorting by {sort} out")
        return "distance"
    _require(sort != "rank" or bool(words.strip()), "sorting by rank needs words")
    _require(sort != "score" or bool(tags), "sorting by score needs a tag")
    return sort or ("rank" if words.strip() else "time")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Misconfigured(otherwise)


def _bounded(what: str, text: str, most: int) -> str:
    """Text that PostgreSQL takes: what it can't store becomes U+FFFD, which no name has."""
    _require(len(text) <= most, f"the {what} has {len(text):,} characters, and at most {most:,} are searched")
    return _UNSTORABLE.sub("\ufffd", text)


@contextmanager
def bounded(connection: Connection) -> Iterator[str]:
    """A transaction with the time limit of a search; gives the text search configuration.

    Raises:
        Unavailable: the database is away, or a statement took longer than 2 s (`fault` too-slow).
    """
    with limited(connection, _CUT_S):
        try:
            with connection.transaction():
                (language, *_) = connection.execute(_BEGIN).fetchone() or ("simple",)
                yield language
        except psycopg.errors.QueryCanceled as error:
            advice = "Ask for rarer words, or narrow it by a tag, a bucket, a prefix or a time."
            said = f"the search took longer than {STATEMENT_S} s"
            raise Unavailable("postgresql", said, fault="too-slow", advice=advice) from error


def _answer(connection: Connection, asked: dict[str, Any], order: str, like: Embedding | None) -> list[Found]:
    with bounded(connection) as asked["language"], connection.cursor(row_factory=kwargs_row(Found)) as cursor:
        table = None if like is None else f"embedding_{_space(connection, like)}"
        asked["few"] = None if table is None else _few(connection, asked)
        # Planned with its values: a common word is searched in another way than a rare one.
        return cursor.execute(_statement(asked, order, table).encode(), asked, prepare=False).fetchall()


def _few(connection: Connection, asked: dict[str, Any]) -> list[str] | None:
    """The images that meet the conditions; None: more than are compared."""
    matches = f"select subject from image where {' and '.join(_conditions(asked))} limit {COMPARED + 1}"
    ((plan,),) = connection.execute(f"explain (format json) {matches}".encode(), asked, prepare=False).fetchall()
    if plan[0]["Plan"]["Plan Rows"] > COMPARED:  # to find them takes as long as to compare them
        return None
    found = connection.execute(matches.encode(), asked, prepare=False).fetchall()
    return None if len(found) > COMPARED else [subject for (subject,) in found]


def _statement(asked: dict[str, Any], order: str, table: str | None) -> str:
    """The search as SQL."""
    rank = f"ts_rank_cd(words, {_QUERY})" if asked["words"] else "null::real"
    shown = f"{_SHOWN}, {rank} as rank, {_SCORE if asked['tags'] else 'null::real'} as score"
    where = " and ".join(_conditions(asked))
    page = "subject limit %(limit)s offset %(offset)s"
    if table is not None:
        few = f"select subject, {_DISTANCE} as distance from {table} e where subject = any(%(few)s) offset 0"
        nearest = f"(select * from ({few}) few order by distance limit %(end)s) nearest join image using (subject)"
        if asked["few"] is None:
            nearest = f"""(select i.*, {_DISTANCE} as distance from {table} e join image i using (subject)
                where {where} order by {_DISTANCE} limit %(end)s) nearest"""
        met = "not gone and distance <= %(within)s"
        return f"select {shown}, distance from {nearest} where {met} order by distance, {page}"
    most = asked["end"] if order == "time" else max(CANDIDATES, asked["end"])
    return (
        f"select {shown}, null::real as distance from"
        f" (select * from image where {where} order by last_modified desc, subject limit {most}) matches"
        f" order by {_ORDERS[order]}, last_modified desc, {page}"
    )


def _conditions(asked: dict[str, Any]) -> Iterator[str]:
    yield "not gone"
    if asked["words"]:
        yield f"words @@ {_QUERY}"
    if asked["tags"]:
        yield "names @> %(tags)s::text[]"
    if asked["min_score"] is not None:
        yield f"{_SCORE} >= %(min_score)s::real"
    if asked["since"] is not None:
        yield "last_modified >= %(since)s"
    for column in ("subject", "key"):
        if asked.get(column):
            yield f"starts_with({column}, %({column})s)"


def _space(connection: Connection, like: Embedding) -> int:
    """The number of the space's table."""
    spaces = connection.execute("select name, dimensions, number from space order by number").fetchall()
    mine = (like.space, len(like.vector))
    if number := next((number for *space, number in spaces if tuple(space) == mine), 0):
        return int(number)
    has = " and ".join(f"{name} ({dimensions:,} dimensions)" for name, dimensions, _ in spaces)
    raise Misconfigured(
        f"the embedding is of the space {like.space} ({len(like.vector):,} dimensions), and the index has "
        + (f"those of {has}" if has else "no embeddings: its images were tagged without (TAGSTREAM_WANT)")
    )
