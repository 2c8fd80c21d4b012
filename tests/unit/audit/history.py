"""Histories to judge: records, the outcomes of a right worker, and faults in them."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from schemas.dead_letter import Failure, Reason, dead_letter_headers
from workers.audit.judge import Judge, Topics
from workers.audit.report import AuditReport, Fault
from workers.audit.seen import Seen
from workers.types import Partition, ReadRecord

IN, OUT, DEAD, SKIPPED = "images", "images.enriched", "images.dead-letters", "images.skipped"


def record(offset: int, events: int = 1, *, partition: int = 0, key: str = "a.png", at_ms: int = 0) -> ReadRecord:
    entry = {"eventName": "ObjectCreated:Put", "eventSource": "minio:s3", "eventTime": "2026-01-01T00:00:00Z"}
    entry |= {"s3": {"bucket": {"name": "photos"}, "object": {"key": key}}}  # type: ignore[dict-item]
    value = json.dumps({"Records": [entry] * events}).encode()
    return ReadRecord(IN, partition, offset, at_ms, b"k", value, ())


def outcome(
    offset: int, index: int = 0, *, of: int = 0, at: tuple[str, int, int], schema: str = "enriched-image/1",
    status: str = "complete", reasons: Sequence[str] = (), key: bytes = b"photos/a.png", at_ms: int = 0,
    of_topic: str = IN,
) -> ReadRecord:  # fmt: skip
    event = {"topic": of_topic, "partition": of, "offset": offset, "index": index}
    document: dict[str, Any] = {"schema": schema, "status": status, "event": event}
    if reasons:
        document |= {"reason": reasons[0], "missing": [{"want": "caption", "reason": each} for each in reasons]}
    value = json.dumps(document).encode()
    return ReadRecord(*at, at_ms, key, value, ())


def dead_letter(
    offset: int, indexes: Iterable[int] = (0,), *, of: int = 0, at: tuple[str, int, int], last: int | None = None,
    reason: Reason = "broken-image", at_ms: int = 0,
) -> ReadRecord:  # fmt: skip
    headers = dead_letter_headers(
        topic=IN,
        partition=of,
        offset=offset,
        last_offset=last,
        timestamp_ms=0,
        failures=[Failure(index=index, stage="decode", reason=reason, detail="") for index in indexes],
        attempts=1,
        worker="1",
        models={},
    )
    return ReadRecord(*at, at_ms, b"k", b"", headers)


def judged(
    records: Sequence[ReadRecord],
    outcomes: Sequence[ReadRecord],
    *,
    ranges: dict[int, tuple[int, int]] | None = None,
    topics: Topics | None = None,
    begins: int = 0,
    seen: Seen | None = None,
    limits: dict[int, int] | None = None,
    whole: bool = False,
    reached: dict[int, tuple[int, int]] | None = None,
    kept: Sequence[ReadRecord] | None = None,
    output_begins: int = 0,
) -> AuditReport:
    """A judge's report on them; by default on all offsets of partition 0 up to the last record."""
    end = max((read.offset + read.offsets for read in records), default=0)
    spans = {0: (0, end)} if ranges is None else ranges
    with seen or Seen() as store:
        judge = Judge(
            {Partition(IN, number): span for number, span in spans.items()},
            topics or Topics(OUT),
            store,
            {Partition(IN, number): limit for number, limit in (limits or {}).items()},
            frozenset((IN,) if whole else ()),
        )
        for read in outcomes:
            judge.outcome(read)
        if reached is not None:
            judge.reached({Partition(IN, number): ends for number, ends in reached.items()})
        for number in spans:
            judge.expired(Partition(IN, number), begins)
        for read in records:
            judge.record(read)
        named = judge.remade.spans(OUT)
        for read in outcomes if kept is None else kept:
            first, end = named.get(Partition(read.topic, read.partition), (0, 0))
            if first <= read.offset < end:
                judge.remade.record(read)
        judge.remade.settle({Partition(OUT, 0): output_begins}, OUT)
        return judge.finish()


def remade(offset: int, *, of: int = 0, at: tuple[str, int, int], key: bytes = b"photos/a.png") -> ReadRecord:
    return outcome(offset, of=of, at=at, key=key, of_topic=OUT)


def found(report: AuditReport, fault: Fault) -> list[str]:
    return [one.record for one in report.findings[fault]]
