"""Where the broker says that a group stands, asked by a client of another make than the workers'."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.support.worker_process import Site

_WAIT_S = 3.0


class Offsets:
    """Ends and committed offsets of a site's input, by partition. None: the broker does not say for now."""

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
        """Records that are not committed yet."""
        committed, ends = self.committed(), self.ends()
        return None if committed is None or ends is None else sum(ends.values()) - sum(committed.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._consumer.close()
