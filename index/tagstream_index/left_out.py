"""Skipped records: the newest of each partition, with their reasons and no content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from psycopg.rows import dict_row

from tagstream_index.database import Connection
from tagstream_index.outcomes import Passed, Row
from workers.types import Partition, ReadRecord, Record

MOST: Final = 1_000
"""Remembered records per partition."""
_LINES: Final = 10
_ERROR_CHARS: Final = 1_000

_NOTE: Final = b"""
insert into left_out (topic, partition, record_offset, reason)
select * from unnest(%s::text[], %s::integer[], %s::bigint[], %s::text[]) on conflict do nothing
"""
_FORGET: Final = f"""
delete from left_out l using (
    select topic, partition, (array_agg(record_offset order by record_offset desc))[{MOST}] as first from left_out
    where topic = any(%s) and partition = any(%s) group by 1, 2
) kept
where (l.topic, l.partition) = (kept.topic, kept.partition) and l.record_offset < kept.first
""".encode()
_TOLD: Final = b"""
select partition, record_offset as "offset", reason from left_out where topic = %s
order by at desc, partition, record_offset desc
"""


class LeftOut(NamedTuple):
    """A skipped record and the reason."""

    partition: Partition
    offset: int
    reason: str

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}: {self.reason}"


def of_records(records: Sequence[Record | ReadRecord], entries: Sequence[Row | Passed]) -> list[LeftOut]:
    """The left-out ones of some records, which `entries` are read from."""
    return [
        LeftOut(_place(record), record.offset, entry.why)
        for record, entry in zip(records, entries, strict=True)
        if isinstance(entry, Passed) and entry.why
    ]


def note(connection: Connection, left: Sequence[LeftOut]) -> None:
    """Remember them, within the caller's transaction."""
    if not left:
        return
    topics, partitions = [each.partition.topic for each in left], [each.partition.number for each in left]
    columns = topics, partitions, [each.offset for each in left], [each.reason[:_ERROR_CHARS] for each in left]
    connection.execute(_NOTE, columns)
    connection.execute(_FORGET, (topics, partitions))
    connection.execute("update state set last_error = %s, last_error_at = now()", (str(left[-1])[:_ERROR_CHARS],))


def told(connection: Connection, topic: str) -> list[dict[str, Any]]:
    """The remembered records of a topic, newest first, as JSON values."""
    return connection.cursor(row_factory=dict_row).execute(_TOLD, (topic,)).fetchall()


def lines(left: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The result of `told` for people."""
    for each in left[:_LINES]:
        yield f"left out: partition {each['partition']}, offset {each['offset']}: {each['reason']}"
    if (more := len(left) - _LINES) > 0:
        yield f"left out: {more:,} more; --json shows them"


def _place(record: Record | ReadRecord) -> Partition:
    return record.partition if isinstance(record, Record) else Partition(record.topic, record.partition)
