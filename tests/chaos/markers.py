"""Transaction markers that a broker lost, found in its log: the only cause of repeated outcomes outside of the clients.

A restarted node has partitions without a leader for a moment. If a transaction ends then, Apache Kafka 4.4.0 takes such
a partition for deleted, skips its marker and calls the transaction complete: the aborted messages become visible with
the next commit of the same producer.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.support.worker_process import Site
from workers.types import Partition

KAFKA_ISSUE = "KAFKA-5202"
"""Since then a partition without a leader counts as deleted, so that its marker is skipped."""

_HEADER = struct.Struct(">qiibIhiqqqhii")
"""Of a record batch, KIP-98: base offset, length, leader epoch, magic, CRC, attributes, last offset delta, two
timestamps, producer id, producer epoch, base sequence, records."""
_LENGTH_FROM = 12
_TRANSACTIONAL, _CONTROL = 1 << 4, 1 << 5


@dataclass(frozen=True)
class Batch:
    offset: int
    attributes: int
    producer_id: int
    producer_epoch: int
    records: int


@dataclass(frozen=True)
class LostMarker:
    """A transaction without an end: where the marker should have been, and how many records it brings to light."""

    place: str
    records: int

    def __str__(self) -> str:
        return f"{self.place}, {self.records} records"


def lost_markers(broker: Path, topic: str) -> list[LostMarker]:
    """Places where a producer's new epoch begins while a transaction of its last one has no end."""
    found = []
    for folder in sorted((broker / "data").glob(f"{topic}-*")):
        partition = Partition(topic, int(folder.name.rsplit("-", 1)[1]))
        opened: dict[int, list[Batch]] = {}
        for batch in _batches(folder):
            if not batch.attributes & _TRANSACTIONAL:
                continue
            before = opened.pop(batch.producer_id, [])
            if batch.attributes & _CONTROL:
                continue
            if before and before[0].producer_epoch != batch.producer_epoch:
                records = sum(each.records for each in before)
                found.append(LostMarker(f"{partition} before offset {batch.offset}", records))
                before = []
            opened[batch.producer_id] = [*before, batch]
    return found


def _batches(partition: Path) -> Iterator[Batch]:
    for segment in sorted(partition.glob("*.log")):
        log, at = segment.read_bytes(), 0
        while at + _HEADER.size <= len(log):
            offset, length, *_, attributes, _, _, _, producer_id, producer_epoch, _, records = _HEADER.unpack_from(
                log, at
            )
            if not length:
                break  # the rest of a segment that is written to is zeros
            yield Batch(offset, attributes, producer_id, producer_epoch, records)
            at += _LENGTH_FROM + length


_WAIT_S = 3.0


class Offsets:
    """Ends and committed offsets of a site's input, by partition. None: the broker does not answer for now."""

    def __init__(self, site: Site) -> None:
        self._partitions = [TopicPartition(site.images, number) for number in range(site.partitions)]
        self._consumer = Consumer(
            {
                "bootstrap.servers": site.stack.kafka.servers,
                "group.id": site.name,
                "enable.auto.commit": False,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )

    def committed(self) -> dict[int, int] | None:
        """0 where nothing was committed yet. An open transaction is waited for."""
        try:
            found = self._consumer.committed(self._partitions, timeout=_WAIT_S)
        except KafkaException:
            return None
        return {place.partition: max(0, place.offset) for place in found}

    def ends(self) -> dict[int, int] | None:
        try:
            return {
                place.partition: self._consumer.get_watermark_offsets(place, timeout=_WAIT_S)[1]
                for place in self._partitions
            }
        except KafkaException:
            return None

    def behind(self) -> int | None:
        committed, ends = self.committed(), self.ends()
        return None if committed is None or ends is None else sum(ends.values()) - sum(committed.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._consumer.close()
