"""How many records a second `tagstream audit` judges: by themselves, and read from a real broker.

    python -m benchmarks audit

Each record has one event and one outcome as workers write it; a record counts once, with its outcome.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.enriched_image import (
    EnrichedImage,
    EventRef,
    ImageFacts,
    ModelRef,
    Models,
    Source,
    Tag,
    Thresholds,
)
from tagstream_testing.local.apache_kafka import ApacheKafka
from workers.assembly.auditing import Auditing
from workers.audit.judge import Judge, Topics
from workers.audit.seen import Seen
from workers.backends.kafka import ensure_topics
from workers.environment import read
from workers.types import Partition, ReadRecord

RECORDS = 198_000
PARTITIONS = 6
IN, OUT, DEAD, SKIPPED = "images", "images.enriched", "images.dead-letters", "images.skipped"

_PLACE = b'"partition":0,"offset":0,'
_NOTIFICATION = (
    b'{"Records":[{"eventVersion":"2.1","eventSource":"minio:s3","eventTime":"2026-01-01T00:00:00Z",'
    b'"eventName":"s3:ObjectCreated:Put","s3":{"bucket":{"name":"photos"},"object":{"key":"2024/a.jpg","size":120000,'
    b'"eTag":"d41d8cd98f00b204e9800998ecf8427e","sequencer":"17B8E6A5"}}}]}'
)
_OWN = b'{"schema":"image-event/1","id":"emit-17","bucket":"photos","key":"2024/a.jpg","etag":"d41d8cd98f00b2"}'


def outcome() -> bytes:
    """An enriched image of 20 tags, of offset 0 of partition 0."""
    model = ModelRef(name="ram", digest="a" * 64, precision="fp32")
    return EnrichedImage(
        id="b" * 64,
        subject="photos/2024/a.jpg",
        status="complete",
        event=EventRef(id="17B8E6A5", dialect="s3", topic=IN, partition=0, offset=0, index=0),
        source=Source(
            bucket="photos", key="2024/a.jpg", etag="e", last_modified="2026-01-01T00:00:00Z", sha256="c" * 64
        ),
        image=ImageFacts(format="jpeg", width=1920, height=1080, bytes=120_000),
        tags=tuple(Tag(name=f"a tag {number}", score=0.9, label_id=number) for number in range(20)),
        models=Models(tagger=model, captioner=model),
        thresholds=Thresholds(profile="default", digest="d" * 16),
        timings_ms={"fetch": 3.1, "decode": 8.0, "annotate": 12.5},
        produced_at="2026-01-01T00:00:01Z",
    ).to_bytes()


def places() -> Iterator[tuple[int, int]]:
    """(partition, offset) of every record."""
    return (divmod(number, PARTITIONS)[::-1] for number in range(RECORDS))


class Rate:
    """Records a second, and records a second of this process's processor time, which other work changes less."""

    def __init__(self) -> None:
        self._began, self._used = time.perf_counter(), time.process_time()

    def __str__(self) -> str:
        took, used = time.perf_counter() - self._began, time.process_time() - self._used
        return f"{RECORDS / took:,.0f} records a second, {RECORDS / used:,.0f} a second of processor time"


def judging(value: bytes) -> str:
    """The rate without any client."""
    template = outcome()
    each = RECORDS // PARTITIONS + 1
    outcomes = [
        ReadRecord(OUT, offset % PARTITIONS, 0, 0, b"k", _placed(template, number, offset), ())
        for number, offset in places()
    ]
    records = [ReadRecord(IN, number, offset, 0, b"k", value, ()) for number, offset in places()]
    rate = Rate()
    with Seen() as seen:
        judge = Judge({Partition(IN, number): (0, each) for number in range(PARTITIONS)}, Topics(OUT), seen)
        for read_ in outcomes:
            judge.outcome(read_)
        for read_ in records:
            judge.record(read_)
        assert judge.finish().proved
    return str(rate)


def _placed(template: bytes, number: int, offset: int) -> bytes:
    assert _PLACE in template
    return template.replace(_PLACE, b'"partition":%d,"offset":%d,' % (number, offset))


def reading(servers: str) -> str:
    """The rate of the whole command on a broker."""
    ensure_topics(servers, {topic: (PARTITIONS, {}) for topic in (IN, OUT, DEAD, SKIPPED)})
    template = outcome()
    _send(servers, ((IN, number, _OWN) for number, _ in places()))
    _send(servers, ((OUT, offset % PARTITIONS, _placed(template, number, offset)) for number, offset in places()))
    group = Consumer({"bootstrap.servers": servers, "group.id": "tagstream", "enable.auto.commit": False})
    group.commit(
        offsets=[TopicPartition(IN, number, RECORDS // PARTITIONS) for number in range(PARTITIONS)], asynchronous=False
    )
    group.close()
    settings = read({"TAGSTREAM_KAFKA_SERVERS": servers, "TAGSTREAM_SKIPPED_TOPIC": SKIPPED})
    rate = Rate()
    report = Auditing(settings, (), (), None, None).run()
    assert report.proved, report.as_json()
    return str(rate)


def _send(servers: str, messages: Iterator[tuple[str, int, bytes]]) -> None:
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 20, "compression.type": "lz4"})
    for topic, partition, value in messages:
        producer.produce(topic, value, b"photos/2024/a.jpg", partition)
        if len(producer) > 50_000:
            producer.poll(0.1)
    producer.flush(60)


def main() -> None:
    for name, value in {"own events": _OWN, "S3 notifications": _NOTIFICATION}.items():
        print(f"judging alone, {name}: {judging(value)}")  # noqa: T201
    with tempfile.TemporaryDirectory() as folder:
        kafka = ApacheKafka(Path(folder) / "kafka")
        try:
            kafka.start()
            print(f"read from a broker: {reading(kafka.servers)}")  # noqa: T201
        finally:
            kafka.kill()


if __name__ == "__main__":
    main()
