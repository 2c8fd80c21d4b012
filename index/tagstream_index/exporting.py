"""The enriched topic as Parquet files, one for each partition."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.stored_scores import PackedScores
from tagstream_index.outcomes import Row, read_record
from workers.assembly.clients import security, servers
from workers.assembly.progress import Counting, uncounted
from workers.assembly.topic_reading import drain
from workers.backends.kafka import Extent, between, extents
from workers.errors import Misconfigured
from workers.settings import Settings
from workers.types import Partition, ReadRecord

logger = logging.getLogger(__name__)

GROUP_ROWS: Final = 20_000
_GROUP_BYTES: Final = 32 << 20
"""Rows and bytes that are held in memory until they are written as a row group."""

_TEXT, _WHOLE, _REAL, _TIME = pa.string(), pa.int64(), pa.float32(), pa.timestamp("us", "UTC")
_TAG = {"name": _TEXT, "score": _REAL, "label_id": _WHOLE, "source": _TEXT, "translations": pa.map_(_TEXT, _TEXT)}
_TAG |= {"parents": pa.list_(_TEXT)}
_NUMBERS = {"floor": _REAL, "label_ids": pa.list_(_WHOLE), "values": pa.list_(_REAL)}
_SCORES = pa.struct(dict.fromkeys(("tagger", "labels", "precision"), _TEXT) | _NUMBERS)
SCHEMA: Final = pa.schema(
    dict.fromkeys(("subject", "bucket", "key"), _TEXT)
    | {"version": _WHOLE, "produced_at": _TIME, "gone": pa.bool_(), "of_version": pa.bool_()}
    | dict.fromkeys(("version_id", "etag", "sha256"), _TEXT)
    | {"last_modified": _TIME, "format": _TEXT, "width": _WHOLE, "height": _WHOLE, "bytes": _WHOLE}
    | {"taken_local": pa.timestamp("us"), "taken_offset": _WHOLE, "orientation": _WHOLE, "phash": _WHOLE}
    | {"thumbhash": pa.binary(), "latitude": pa.float64(), "longitude": pa.float64()}
    | {"tags": pa.list_(pa.struct(_TAG)), "scores": _SCORES, "caption": _TEXT, "embedding": pa.list_(_REAL)}
    | dict.fromkeys(("embedding_space", "embedding_model", "corrections", "results", "provenance"), _TEXT)
    | {"offset": _WHOLE, "record_at": pa.timestamp("ms", "UTC")}
)

_TABLE: Final = """
pragma journal_mode = off; pragma synchronous = off;
create table newest (id primary key, version, published, produced_at, gone, document, partition, place) without rowid
"""
_REMEMBER: Final = """
insert or replace into newest
select :id, :version, :published, :produced_at, :gone, :document, :partition, :offset where not exists (
    select 1 from newest where id = :id
    and (version, published, produced_at, gone) >= (:version, :published, :produced_at, :gone))
"""
"""`id` is a subject, or the document of a retracted version."""
_KEEP: Final = """
create table kept as select coalesce(v.partition, n.partition) as partition, coalesce(v.place, n.place) as place
from newest n left join newest v on v.id = n.document
    and (v.version, v.published, v.produced_at) >= (n.version, n.published, n.produced_at)
where typeof(n.id) = 'text';
create index kept_place on kept (partition, place)
"""
"""A subject that shows a retracted version is kept as the retraction of that version."""


def export(settings: Settings, folder: Path, *, every: bool = False, counting: Counting = uncounted) -> dict[str, Any]:
    """Write the newest outcome of each subject into an empty folder; returns what `--json` prints.

    Args:
        every: write all records that can be read.

    Raises:
        Misconfigured: the folder is not empty or too small, or the topic does not exist.
        Unavailable: no broker answers.
    """
    if folder.exists() and any(folder.iterdir()):
        raise Misconfigured(f"{folder} is not empty: name a new or empty folder, or empty it.")
    spans = extents(servers(settings), [settings.output_topic], security=security(settings))
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".export-") as staging:
        try:
            with closing(sqlite3.connect(f"{staging}/newest", isolation_level=None)) as newest:
                newest.executescript(_TABLE)
                parts = [_Part(Path(staging), newest, *span) for span in sorted(spans.items())]
                for part in parts:
                    part.read(settings, counting)
                if not every:
                    newest.executescript(_KEEP)
                    for part in parts:
                        part.keep_newest()
        except sqlite3.OperationalError as error:
            raise Misconfigured(f"{folder} can't be written: {error}. Name a folder on a larger disk.") from error
        for part in parts:
            part.path.rename(folder / part.path.name)
    files = [{"file": part.path.name, **part.told, "rows": part.rows} for part in parts]
    return {"files": files, "rows": sum(part.rows for part in parts), "unreadable": sum(part.wrong for part in parts)}


class _Part:
    """A partition's file: row groups of records in order of their offsets."""

    def __init__(self, staging: Path, newest: sqlite3.Connection, place: Partition, span: Extent) -> None:
        self.path = staging / f"part-{place.number:05d}.parquet"
        self.told = {"topic": place.topic, "partition": place.number, "next_offset": span.end}
        self.rows = self.wrong = 0
        self._newest, self._place, self._span = newest, place, span
        self._held, self._held_bytes = list[dict[str, Any]](), 0

    def _writer(self) -> Any:
        self.rows = 0
        schema = SCHEMA.with_metadata({"tagstream": orjson.dumps(self.told)})
        return pq.ParquetWriter(self.path, schema, compression="zstd")

    def _write(self, writer: Any, table: pa.Table) -> None:
        if table.num_rows:
            writer.write_table(table, row_group_size=table.num_rows)
        self.rows += table.num_rows

    def read(self, settings: Settings, counting: Counting) -> None:
        """Write all records, and remember the newest of each subject."""
        spans = {self._place: (self._span.begin, self._span.end)}
        with self._writer() as writer, between(servers(settings), spans, security=security(settings)) as reading:
            take = partial(self._take, writer=writer)
            drain(reading, f"offsets of {self._place}", take, counting=counting)
            self._flush(writer)

    def _take(self, record: ReadRecord, writer: Any) -> None:
        entry = read_record(record)
        if isinstance(entry, Row):
            self._held.append({**_columns(entry), "offset": record.offset, "record_at": _time(record.timestamp_ms)})
            self._held_bytes += record.size
        elif entry.kind == "unreadable":
            self.wrong += record.offsets
            logger.warning("passed over: %s:%d can't be read: %s", self._place, record.offset, entry.why)
        if len(self._held) >= GROUP_ROWS or self._held_bytes >= _GROUP_BYTES:
            self._flush(writer)

    def _flush(self, writer: Any) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        self._write(writer, pa.Table.from_pylist(held, SCHEMA))
        self._newest.execute("begin")
        self._newest.executemany(_REMEMBER, ({**row, "partition": self._place.number} for row in held))
        self._newest.execute("commit")

    def keep_newest(self) -> None:
        """Rewrite the file with only the rows of `kept`."""
        whole = self.path.rename(self.path.with_suffix(".whole"))
        among = "select place from kept where partition = ? and place between ? and ?"
        waiting = SCHEMA.empty_table()
        with pq.ParquetFile(whole) as source, self._writer() as writer:
            for table in map(source.read_row_group, range(source.num_row_groups)):
                reach = pc.min_max(table["offset"]).as_py()
                found = self._newest.execute(among, (self._place.number, reach["min"], reach["max"])).fetchall()
                kept = pc.is_in(table["offset"], pa.array([place for (place,) in found], pa.int64()))
                waiting = pa.concat_tables([waiting, table.cast(SCHEMA).filter(kept)])
                if waiting.num_rows >= GROUP_ROWS or waiting.nbytes >= _GROUP_BYTES:
                    self._write(writer, waiting)
                    waiting = SCHEMA.empty_table()
            self._write(writer, waiting)
        whole.unlink()


def _columns(row: Row) -> dict[str, Any]:
    """Values by column, and `id` and `document` for the table `newest`."""
    kept = ("outcome", "stored_scores", "vector", "flaws")
    found: dict[str, Any] = {name: value for name, value in row._asdict().items() if name not in kept}
    document = found["document"]
    found |= {"id": document if row.of_version else row.subject, "document": None if row.of_version else document}
    for name in ("corrections", "results", "provenance"):
        found[name] = None if found[name] is None else orjson.dumps(found[name]).decode()
    found["scores"] = None if row.stored_scores is None else _scores(row.stored_scores)
    if row.vector is not None:
        numbers = np.frombuffer(row.vector.data, "<f2").astype(np.float32)
        found |= {"embedding": numbers, "embedding_space": row.vector.space, "embedding_model": row.vector.model}
    return found


def _time(at_ms: int) -> int | None:
    """A record's time if readers have such a year: any producer sets it."""
    return at_ms if 0 <= at_ms < 253_402_300_800_000 else None  # the year 10000


def _scores(stored: bytes) -> dict[str, Any] | None:
    try:
        read = PackedScores.decode(stored)
    except ValueError:
        return None
    pairs = np.frombuffer(read.pairs, [("id", "<u4"), ("score", "<f4")])
    told = {name: getattr(read, name) for name in ("tagger", "labels", "precision", "floor")}
    return {**told, "label_ids": pairs["id"].astype(np.int64), "values": pairs["score"].copy()}
