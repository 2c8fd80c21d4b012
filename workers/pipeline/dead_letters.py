"""Makes dead letters for failed records and for skipped ones."""

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
    """One dead letter for equal records; one for each if too large.

    Args:
        limit: the largest `Message.size` that the topic takes.
        allowed: bytes that the dead letter of one record may have.
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
    """The original with our headers; without value, or empty, if too large.

    An unreadable record has no original bytes, so its dead letter counts as truncated.

    Args:
        limit: the largest `Message.size` that the topic takes.
        worker: the worker's version.
        models: versions by role.
        keys: keys of the records that it replaces, in offset order; empty: it replaces one.
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
    # A record can hold a million null headers, and their list is larger than the headers.
    return Message(topic, b"", b"", added(True, [name for name in original.nulls if name in ("key", "value")]))
