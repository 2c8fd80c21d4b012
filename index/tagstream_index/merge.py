"""A batch of outcomes into the tables: staged by COPY, then merged by a few statements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import psycopg

from tagstream_index import left_out
from tagstream_index.database import Connection, is_of_a_record, limited
from tagstream_index.outcomes import CONTENT, HEAD, OF_ROW, OF_VECTOR, Passed, Row, read_record, values_of
from tagstream_index.wider import WiderNames
from workers.models.result_kinds import added_kinds
from workers.types import Partition, ReadRecord, Record

MOST_SPACES: Final = 16
"""Each space has a table, and its name comes from a record."""

_LOADED, _LOADED_BYTES = 1_000, 4 << 20
"""Records of one transaction of `Loader`, about."""
_MOST_KINDS: Final = 100
_NAME_KINDS: Final = b"""
update state set results = array(select distinct unnest(results || %s) order by 1) where not results @> %s
"""
NO_ID: Final = "unknown"
"""The topic id of brokers that know no ids."""

_ORDER = "version, published, produced_at, gone"
TIME: Final = "version, published, produced_at"
_NEWEST_FIRST = ", ".join(f"{name} desc" for name in _ORDER.split(", "))
_WRITTEN = ", ".join((*_ORDER.split(", "), *CONTENT))


def of(table: str, names: str = _ORDER) -> str:
    return ", ".join(f"{table}.{name.strip()}" for name in names.split(","))


_COLUMNS: Final = OF_ROW | OF_VECTOR
STAGING: Final = (
    f"create temp table if not exists incoming ({', '.join(f'{name} {kind}' for name, kind in _COLUMNS.items())})"
    " with (toast_tuple_target = 8160) on commit delete rows;"
    ' create temp table if not exists won (subject text collate "C", gone boolean) on commit delete rows'
).encode()

_CLEAR: Final = b"delete from incoming; delete from won"
"""Not needed for correctness; keeps later batches of a transaction fast."""

_COPY: Final = f"copy incoming ({', '.join(_COLUMNS)}) from stdin (format binary)".encode()
_TYPES: Final = [kind.split()[0].replace("real", "float4") for kind in _COLUMNS.values()]

_REMEMBER: Final = f"""
insert into gone_version as known (document, version, published, produced_at)
select distinct on (document) document, version, published, produced_at
from incoming where of_version order by document, version desc, published desc, produced_at desc
on conflict (document) do update
set (version, published, produced_at, changed_at)
    = (excluded.version, excluded.published, excluded.produced_at, default)
where ({of("excluded", TIME)}) > ({of("known", TIME)})
""".encode()
"""Remember retracted object versions."""

NAME_HASH: Final = "sha256(convert_to({}, 'UTF8'))"
"""SQL of the hash of a name that `tagstream forget` keeps, as a document of `gone_version`."""
_MERGE: Final = f"""
with ranked as materialized (
    select i.ctid as at, i.subject, i.gone or exists (
            select from gone_version g
            where g.document = i.document and ({of("g", TIME)}) >= ({of("i", TIME)})
        ) as over,
        row_number() over newest_first as place,
        bool_or(i.gone) over newest_first as ended,
        bool_or(i.gone) over (partition by i.subject) as emptied
    from incoming i left join lateral (select * from image t where t.subject = i.subject limit 1) t on true
    left join lateral (
        select document from gone_version g
        where g.document = {NAME_HASH.format("i.subject")} and ({of("g", TIME)}) >= ({of("i", TIME)}) limit 1
    ) forgotten on true
    where not i.of_version and forgotten.document is null and (t.subject is null or ({of("i")}) > ({of("t")}))
    window newest_first as (
        partition by i.subject order by {of("i", _NEWEST_FIRST)}
        rows between unbounded preceding and current row
    )
), merged as (
    insert into image as t ({", ".join((*HEAD, *CONTENT))})
    select {of("i", ", ".join(name for name in HEAD if name != "gone"))}, over,
        {", ".join(f"case when not over then i.{name} end" for name in CONTENT)}
    from ranked r join incoming i on i.ctid = r.at where place = 1 order by i.subject
    on conflict (subject) do update
    set ({_WRITTEN}, changed_at) = ({of("excluded", _WRITTEN)}, default)
    where ({of("excluded")}) > ({of("t")})
    returning subject, gone
), kept as (
    insert into history (subject, outcomes, scores)
    select r.subject, (array_agg(i.outcome order by place) || case when not bool_or(r.emptied) then
            coalesce((select h.outcomes from history h where h.subject = r.subject), array[]::json[])
            else array[]::json[] end)[1:5],
        (array_agg(i.stored_scores order by place))[1]
    from ranked r join merged m using (subject) join incoming i on i.ctid = r.at
    where not m.gone and not r.ended and not r.over
    group by r.subject
    on conflict (subject) do update set outcomes = excluded.outcomes, scores = excluded.scores
), emptied as (
    delete from history h using merged m where h.subject = m.subject and m.gone
)
insert into won select * from merged
""".encode()
"""Make the newest outcome of each subject its row.

`over`: the image is removed; `ended`: a retraction of the object is newer. A lateral join with a limit is always
one by the index: without statistics of `incoming`, each batch would read all of `image`."""

_OF_VERSIONS: Final = "array(select subject from incoming where of_version)"
"""Uses the index: a join with the subjects would read the whole table."""

_VOID: Final = f"""
with void as (
    update image t
    set (gone, changed_at, {", ".join(CONTENT)}) = (true, default, {", ".join("null" for _ in CONTENT)})
    from incoming i
    where t.subject = any({_OF_VERSIONS}) and i.of_version and i.subject = t.subject and i.version_id = t.version_id
    and ({of("i", TIME)}) >= ({of("t", TIME)})
    returning t.subject
)
insert into won select subject, true from void
""".encode()
"""Empty the rows that show a retracted version."""

_FORGET_VERSION: Final = f"""
update history h set outcomes = array(
    select each.outcome from unnest(h.outcomes) with ordinality as each (outcome, place)
    where not exists (
        select from incoming i where i.of_version and i.subject = h.subject
        and i.version_id = each.outcome #>> '{{source,version_id}}'
    ) order by each.place
)
where h.subject = any({_OF_VERSIONS})
""".encode()

_MERGE_VECTORS: Final = f"""
with shown as (
    select distinct on (subject) i.* from incoming i join won w using (subject)
    where not w.gone and not i.of_version order by subject, {_NEWEST_FIRST}
), kept as (
    insert into embedding_{{n}} as e (subject, model, vector)
    select subject, model, vector from shown where space = {{n}}
    on conflict (subject) do update set model = excluded.model, vector = excluded.vector
    where (e.model, e.vector) is distinct from (excluded.model, excluded.vector)
)
delete from embedding_{{n}} e where e.subject = any(array(select subject from won))
and not exists (select from shown s where s.subject = e.subject and s.space = {{n}})
"""
"""Bring one space's table up to the rows that were written; an equal vector is not touched."""

BELIEVED: Final = """case when at_ms between 0 and extract(epoch from now()) * 1000 + 86400000
    then to_timestamp(at_ms / 1000.0) end"""
"""SQL of a record's time: null before 1970, or over a day ahead. Any producer sets it."""
_ADVANCE: Final = f"""
update progress p set next_offset = m.next, record_at = coalesce({BELIEVED}, p.record_at), written_at = now()
from unnest(%s::text[], %s::integer[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[])
    as m (topic, partition, topic_id, expected, next, at_ms)
where p.topic = m.topic and p.partition = m.partition and p.topic_id = m.topic_id and p.next_offset = m.expected
and p.tableoid = %s
returning p.topic, p.partition
""".encode()


class Move(NamedTuple):
    """A partition's next offset: the one that is expected in the tables, and the one to write."""

    topic_id: str
    expected: int
    next: int
    at_ms: int | None
    """Timestamp of the last record before `next`, in ms since 1970; None: no record."""


class Moved(Exception):
    """Another indexer has moved these partitions on, or the tables were swapped; nothing was written."""

    def __init__(self, partitions: Iterable[Partition]) -> None:
        super().__init__(f"another indexer or `index rebuild` wrote {', '.join(map(str, partitions))}")
        self.partitions = frozenset(partitions)


class Spaces:
    """The tables of embeddings, by space and dimensions; `indexed`: new ones get their HNSW index at once."""

    def __init__(self, connection: Connection, *, indexed: bool = True) -> None:
        self.connection = connection
        self.wider = WiderNames(connection)
        self._indexed = indexed
        self.known: dict[tuple[str, int], int] = {}
        added_kinds()  # a broken package is told at the start, and not by flaws of records
        self._kinds: set[str] = {each for (each,) in connection.execute("select unnest(results) from state")}
        self.beside: int = connection.execute("select 'progress'::regclass::oid").fetchall()[0][0]
        """The oid of `progress` in the same tables."""
        self._read()

    def _read(self) -> None:
        found = self.connection.execute("select name, dimensions, number from space").fetchall()
        self.known = {(name, dimensions): number for name, dimensions, number in found}

    def meet(self, rows: Sequence[Row]) -> None:
        """Make tables of embeddings and keep results' names, if there is room."""
        kinds = sorted({name for row in rows for name in row.results or ()} - self._kinds)
        if kinds := kinds[: max(0, _MOST_KINDS - len(self._kinds))]:
            self.connection.execute(_NAME_KINDS, (kinds, kinds))
            self._kinds.update(kinds)
        new = {row.vector[:2] for row in rows if row.vector is not None} - self.known.keys()
        if not new:
            return
        with self.connection.transaction():
            self.connection.execute("lock table space in exclusive mode")
            self._read()
            for space in sorted(new - self.known.keys()):
                if len(self.known) >= MOST_SPACES and not self._make_room():
                    break
                self._make(*space)

    def _make_room(self) -> bool:
        """Drop a space without images. A young one stays: its images may be on the way, or it is one of a flood."""
        old = "select number from space where made_at < now() - interval '1 hour' order by number"
        for (number,) in self.connection.execute(old).fetchall():
            any_image = f"select from embedding_{number} limit 1".encode()
            if self.connection.execute(any_image).rowcount == 0:
                self.connection.execute(f"lock table embedding_{number} in access exclusive mode".encode())
                if self.connection.execute(any_image).rowcount == 0:
                    self.connection.execute(f"drop table embedding_{number}".encode())
                    self.connection.execute("delete from space where number = %s", (number,))
                    self._read()
                    return True
        return False

    def _make(self, name: str, dimensions: int) -> None:
        new = "insert into space (name, dimensions) values (%s, %s) returning number"
        (number,) = self.connection.execute(new, (name, dimensions)).fetchone() or (0,)
        columns = f'subject text collate "C" primary key, model text not null, vector halfvec({dimensions:d}) not null'
        self.connection.execute(f"create table embedding_{number} ({columns})".encode())
        self.known[name, dimensions] = number
        if self._indexed:
            self.index(number)

    def index(self, number: int) -> None:
        """Make the HNSW index of one table."""
        self.connection.execute(f"create index on embedding_{number} using hnsw (vector halfvec_cosine_ops)".encode())


def write_records(
    spaces: Spaces,
    records: Sequence[Record | ReadRecord],
    entries: Sequence[Row | Passed],
    moves: Mapping[Partition, Move],
) -> list[Row | Passed]:
    """Write records, read as `entries`, and offsets in one transaction. Returns as `store`; raises as `advance`."""
    connection = spaces.connection
    rows = [entry for entry in entries if isinstance(entry, Row)]
    with limited(connection):
        spaces.meet(rows)
        spaces.wider.meet(rows)
        with connection.transaction():
            connection.execute(_CLEAR)
            serialise_versions(connection, rows)
            if moves:
                advance(connection, moves, spaces.beside)
            stored = store(connection, entries, spaces.known)
            left_out.note(connection, left_out.of_records(records, stored))
    return stored


def advance(connection: Connection, moves: Mapping[Partition, Move], table: int) -> None:
    """Write the next offsets, if `progress` has still this oid: `index rebuild` brings other tables.

    Raises:
        Moved: the tables were swapped, or have another offset than is expected, or another topic of that name.
    """
    columns = map(list, zip(*((*place, *move) for place, move in sorted(moves.items())), strict=True))
    done = {Partition(*row) for row in connection.execute(_ADVANCE, (*columns, table))}
    if left := sorted(moves.keys() - done):
        raise Moved(left)


def store(
    connection: Connection, entries: Sequence[Row | Passed], spaces: Mapping[tuple[str, int], int]
) -> list[Row | Passed]:
    """Merge the rows that PostgreSQL accepts, within the caller's transaction; returns refused ones as `Passed`."""
    try:
        with connection.transaction():
            if rows := [entry for entry in entries if isinstance(entry, Row)]:
                merge(connection, rows, spaces)
        return list(entries)
    except psycopg.Error as error:
        if not is_of_a_record(error):
            raise
        if len(entries) == 1:  # the error's text may repeat values
            return [Passed("unreadable", f"PostgreSQL refuses it: {type(error).__name__}")]
    middle = len(entries) // 2
    return [*store(connection, entries[:middle], spaces), *store(connection, entries[middle:], spaces)]


def merge(connection: Connection, rows: Sequence[Row], spaces: Mapping[tuple[str, int], int]) -> None:
    """Bring rows into the tables, within the caller's transaction."""
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_TYPES)
        for row in rows:
            copy.write_row((*values_of(row), *_vector_of(row, spaces)))
    merge_staged(connection, spaces, retracts=any(row.of_version for row in rows))


def merge_staged(connection: Connection, spaces: Mapping[tuple[str, int], int], *, retracts: bool) -> None:
    """Merge the rows of the staging table; `retracts`: some retract one version of an object."""
    if retracts:
        connection.execute(_REMEMBER)
    connection.execute(_MERGE)
    if retracts:
        connection.execute(_VOID)
        connection.execute(_FORGET_VERSION)
        connection.execute("delete from history where subject = any(array(select subject from won where gone))")
    for number in sorted(set(spaces.values())):
        connection.execute(_MERGE_VECTORS.replace("{n}", str(number)).encode())


def serialise_versions(connection: Connection, rows: Sequence[Row]) -> None:
    """Order retractions of versions, and `tagstream forget`, against outcomes.

    Two open transactions don't see each other. So retractions of versions, which are rare, wait for all others.
    """
    if rows:
        mode = "share row" if any(row.of_version for row in rows) else "row"
        connection.execute(f"lock table gone_version in {mode} exclusive mode".encode())


def _vector_of(row: Row, spaces: Mapping[tuple[str, int], int]) -> tuple[object, ...]:
    vector = row.vector
    number = None if vector is None else spaces.get(vector[:2])
    return (None, None, None) if vector is None or number is None else (number, vector.model, vector.value())


class Loader:
    """Merges the whole topic in batches: one is read while the database works on the last. `keep` changes rows."""

    def __init__(self, spaces: Spaces, keep: Callable[[Row], Row] = lambda row: row) -> None:
        self.spaces = spaces
        self._keep = keep
        self._waiting: list[tuple[ReadRecord, Row | Passed]] = []
        self._bytes = 0
        self._thread = ThreadPoolExecutor(1, "load")
        self._writing = self._thread.submit(lambda: None)
        self.records = self.refused = 0
        self.times_ms: dict[Partition, int] = {}
        """The time of the last record of each partition, as its producer says."""

    def take(self, record: ReadRecord) -> None:
        """Raises ValueError: it is no outcome."""
        self.times_ms[Partition(record.topic, record.partition)] = record.timestamp_ms
        entry = read_record(record)
        if isinstance(entry, Passed) and entry.kind == "tombstone":
            return
        self._waiting.append((record, self._keep(entry) if isinstance(entry, Row) else entry))
        self._bytes += record.size
        if len(self._waiting) >= _LOADED or self._bytes >= _LOADED_BYTES:
            self._flush()
        if isinstance(entry, Passed):
            raise ValueError(entry.why)
        self.records += 1

    def finish(self) -> None:
        """Merge the remaining records, and wait for it."""
        self._flush()
        self._writing.result()

    def _flush(self) -> None:
        self._writing.result()
        self._writing = self._thread.submit(self._write, self._waiting)
        self._waiting, self._bytes = [], 0

    def _write(self, read: Sequence[tuple[ReadRecord, Row | Passed]]) -> None:
        records, entries = [record for record, _ in read], [entry for _, entry in read]
        stored = write_records(self.spaces, records, entries, {})
        self.refused += sum(new is not old for new, old in zip(stored, entries, strict=True))
