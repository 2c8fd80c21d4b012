"""Builds dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.dead_letter import Failure, dead_letter_headers, strip_own_headers, without_nulls
from workers.types import Headers, Message, Record


def dead_letters(
    records: Sequence[Record],
    failures: Sequence[Failure],
    *,
    topic: str,
    limit: int,
    allowed: int,
    worker: str,
    models: Mapping[str, str],
) -> list[Message]:
    """One dead letter for equal records; if too large, one for each.

    Args:
        allowed: largest size of a dead letter for one record, in bytes.
    """
    first, *others = records
    if others:
        keys = [record.key for record in records]
        most = min(limit, allowed * len(records))
        of_all = dead_letter(first, failures, topic=topic, limit=most, worker=worker, models=models, keys=keys)
        if of_all.value == (first.value or b""):
            return [of_all]
    most = min(limit, allowed)
    return [dead_letter(one, failures, topic=topic, limit=most, worker=worker, models=models) for one in records]


def dead_letter(
    record: Record,
    failures: Sequence[Failure],
    *,
    topic: str,
    limit: int,
    worker: str,
    models: Mapping[str, str],
    keys: Sequence[bytes | None] = (),
) -> Message:
    """The original record with further headers.

    If it is too large, it loses its value, and then also its key and its own headers.

    Args:
        models: name and digest of each model, by use.
        keys: keys of the equal records, in offset order; empty: there is one record.
    """
    original = without_nulls(record.key, record.value, strip_own_headers(record.headers))

    def added(truncated: bool, nulls: Sequence[str] = original.nulls) -> Headers:
        return dead_letter_headers(
            topic=record.partition.topic,
            partition=record.partition.number,
            offset=record.offset,
            last_offset=record.next_offset - 1 + max(0, len(keys) - 1),
            timestamp_ms=record.timestamp_ms,
            append_time=record.append_time,
            failures=failures,
            attempts=1,
            worker=worker,
            models=models,
            nulls=nulls,
            keys=keys,
            truncated=truncated,
        )

    whole = Message(topic, original.key, original.value, original.headers + added(record.unreadable is not None))
    if whole.size <= limit:
        return whole
    without_value = Message(topic, original.key, b"", original.headers + added(True))
    if without_value.size <= limit:
        return without_value
    # A record can have a million headers with null values: the list of their names is left out.
    return Message(topic, b"", b"", added(True, [name for name in original.nulls if name in ("key", "value")]))
