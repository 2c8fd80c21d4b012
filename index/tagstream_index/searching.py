"""Search the index: words, filters, nearest embeddings, and words and a sentence as one list."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import HalfVector
from psycopg.rows import kwargs_row

from tagstream_index.database import Connection, connect, limited, readable, require_tables
from tagstream_index.settings import IndexSettings
from workers.assembly.needs import needed_of
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
FUSED: Final = 1_000
"""Where words and a sentence make one list, it has so many of the best of each."""
LIKE_WITHIN: Final = 0.3
ABOUT_WITHIN: Final = 1.0
"""A right angle: images are much farther from sentences than from each other."""
_RANK_OFFSET: Final = 60
_WORDS_CHARS: Final = 1_000
_NAME_CHARS: Final = 1_088
"""No tag, bucket or key in the index is longer."""
_MOST_TAGS: Final = 20
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")

LIVE: Final = f"not gone and {readable('last_modified')}"
"""SQL: the rows that are read. `index check` names live rows that can't be."""
_BEGIN: Final = f"""
select language::text, set_config('statement_timeout', '{STATEMENT_S}s', true),
    set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', '100', true)
from state
""".encode()
_QUERY: Final = "websearch_to_tsquery(%(language)s::regconfig, %(words)s)"
_SCORE: Final = "(select min(scores[array_position(names, tag)]) from unnest(%(tags)s::text[]) tag)"
_DISTANCE: Final = "e.vector <=> %(vector)s"
_SHOWN: Final = (
    "subject, bucket, key, version_id, sha256, last_modified, format, width, height, bytes, names, scores, caption"
)
_ORDERS: Final = {"rank": "rank desc", "score": "score desc", "time": "last_modified desc", "distance": "distance"}
_PAGE: Final = "subject limit %(limit)s offset %(offset)s"


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
        rank: how well it fits the words, from 0 on; None without words, or found by the sentence alone.
        score: the lowest score of the wanted tags; None without.
        distance: cosine distance, 0 to 2; None without embedding, or found by the words alone.
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
    about: Embedding | None = None,
    within: float | None = None,
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
        like: images near this embedding, the nearest first. Of more than 3,000 that meet the other conditions most of
            the nearest are found, and pages may overlap.
        about: images near this embedding of a sentence; with words one list, as `fused`, of the best 1,000 by each.
        within: largest cosine distance, 0 to 2; None: 0.3 from `like`, 1 from `about`.
        sort: `rank` (of words; the default with words), `score` (the lowest of `tags`) or `time` (of `last_modified`,
            newest first; the default without words). Rank and score order the newest 2,000 matches. Not with `like`
            or `about`.
        limit: most images, 1 to 1,000.
        offset: images to leave out, 0 to 10,000: for the next page.

    Raises:
        Misconfigured: an argument is wrong, or the index has no embeddings of that space.
        Unavailable: the database is away, or the search takes longer than 2 s.
    """
    _require(like is None or about is None, "near an image, or near a sentence: leave one out")
    near = like if about is None else about
    order = _order(words, tags, near, sort)
    if within is None:
        within = LIKE_WITHIN if about is None else ABOUT_WITHIN
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
        "vector": None if near is None else HalfVector(near.vector),
        "within": within,
        "limit": limit,
        "offset": offset,
        "end": limit + offset,
    }
    answer = _answer if about is None or not asked["words"] else _answer_together
    if connection is not None:
        return answer(connection, asked, order, near)
    with closing(connected(needed_of(IndexSettings, "index_dsn"))) as own:
        return answer(own, asked, order, near)


def fused(*rankings: Sequence[str]) -> list[tuple[float, str]]:
    """Rankings of subjects as one: score and subject, best first.

    Each ranking adds 1 / (60 + place) to a subject's score: reciprocal rank fusion (Cormack, Clarke and Büttcher 2009).
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for place, subject in enumerate(ranking, 1):
            scores[subject] = scores.get(subject, 0) + 1 / (_RANK_OFFSET + place)
    return sorted(((score, subject) for subject, score in scores.items()), reverse=True)


def _order(words: str, tags: Sequence[str], near: Embedding | None, sort: Sort | None) -> str:
    if near is not None:
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


def _answer(connection: Connection, asked: dict[str, Any], order: str, near: Embedding | None) -> list[Found]:
    with bounded(connection) as asked["language"], connection.cursor(row_factory=kwargs_row(Found)) as cursor:
        where = " and ".join(_conditions(asked))
        if near is None:
            text = _statement(asked, where, order)
        else:
            table = f"embedding_{space_number(connection, near)}"
            asked["few"] = few(connection, where, asked)
            text = nearest(_shown(asked), table, where, asked)
        # Planned with its values: a common word is searched in another way than a rare one.
        return cursor.execute(f"{text}, {_PAGE}".encode(), asked, prepare=False).fetchall()


def _answer_together(connection: Connection, asked: dict[str, Any], _: str, near: Embedding | None) -> list[Found]:
    """By words and by a sentence, as one list."""
    deep = asked | {"limit": FUSED, "offset": 0, "end": FUSED}
    by_words = {each.subject: each for each in _answer(connection, deep, "rank", None)}
    by_meaning = {each.subject: each for each in _answer(connection, deep | {"words": ""}, "distance", near)}
    best = fused(list(by_words), list(by_meaning))[asked["offset"] : asked["end"]]
    return [
        replace(by_words[subject], distance=by_meaning[subject].distance)
        if subject in by_words and subject in by_meaning
        else by_words.get(subject) or by_meaning[subject]
        for _, subject in best
    ]


def few(connection: Connection, where: str, asked: dict[str, Any]) -> list[str] | None:
    """The images that meet the conditions; None: more than are compared."""
    matches = f"select subject from image where {where} limit {COMPARED + 1}"
    ((plan,),) = connection.execute(f"explain (format json) {matches}".encode(), asked, prepare=False).fetchall()
    if plan[0]["Plan"]["Plan Rows"] > COMPARED:  # to find them takes as long as to compare them
        return None
    found = connection.execute(matches.encode(), asked, prepare=False).fetchall()
    return None if len(found) > COMPARED else [subject for (subject,) in found]


def nearest(shown: str, table: str, where: str, asked: dict[str, Any]) -> str:
    """SQL of the images nearest to `vector`."""
    few = f"select subject, {_DISTANCE} as distance from {table} e where subject = any(%(few)s) offset 0"
    near = f"(select * from ({few}) few order by distance limit %(end)s) nearest join image using (subject)"
    if asked["few"] is None:
        near = f"""(select i.*, {_DISTANCE} as distance from {table} e join image i using (subject)
            where {where} order by {_DISTANCE} limit %(end)s) nearest"""
    return f"select {shown}, distance from {near} where not gone and distance <= %(within)s order by distance"


def _shown(asked: dict[str, Any]) -> str:
    rank = f"ts_rank_cd(words, {_QUERY})" if asked["words"] else "null::real"
    return f"{_SHOWN}, {rank} as rank, {_SCORE if asked['tags'] else 'null::real'} as score"


def _statement(asked: dict[str, Any], where: str, order: str) -> str:
    most = asked["end"] if order == "time" else max(CANDIDATES, asked["end"])
    return (
        f"select {_shown(asked)}, null::real as distance from"
        f" (select * from image where {where} order by last_modified desc, subject limit {most}) matches"
        f" order by {_ORDERS[order]}, last_modified desc"
    )


def _conditions(asked: dict[str, Any]) -> Iterator[str]:
    yield LIVE
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


def space_number(connection: Connection, near: Embedding) -> int:
    """The number of the space's table.

    Raises:
        Misconfigured: the index has no embeddings of this space.
    """
    spaces = connection.execute("select name, dimensions, number from space order by number").fetchall()
    mine = (near.space, len(near.vector))
    if number := next((number for *space, number in spaces if tuple(space) == mine), 0):
        return int(number)
    has = " and ".join(f"{name} ({dimensions:,} dimensions)" for name, dimensions, _ in spaces)
    raise Misconfigured(
        f"the embedding is of the space {near.space} ({len(near.vector):,} dimensions), and the index has "
        + (f"those of {has}" if has else "no embeddings: its images were tagged without (TAGSTREAM_WANT)")
    )
