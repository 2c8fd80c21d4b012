"""Reads a consumer's fetched batches by our own reader, within bounds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from kafka import TopicPartition
from kafka.errors import CorruptRecordError

from workers.backends.kafka import internals
from workers.backends.kafka.batches.batch import Batch, batches
from workers.backends.kafka.batches.codecs import Malformed, TooLarge
from workers.types import Partition, ReadRecord, Unreadable

BATCH_BYTES = 32 << 20
"""Most bytes of one batch in memory, by default."""


class BoundedReading:
    """Bounds the memory of a consumer's polls. Belongs to the polling thread.

    Call `begin` before each poll. Batches beyond the bound are dropped and fetched again. Unread partitions queue up,
    since a broker always answers in the same order: one full of too large batches delays no other for long.

    Args:
        batch_bytes: one batch that would hold more is not opened.
        poll_bytes: after these bytes a poll reads no further batch.
    """

    def __init__(self, consumer: Any, *, batch_bytes: int, poll_bytes: int) -> None:
        self.batch_bytes = batch_bytes
        self._poll_bytes = poll_bytes
        self._left = poll_bytes
        self._waiting: dict[TopicPartition, None] = {}
        self._offered: set[TopicPartition] = set()
        self._held_up = False
        self._failed: dict[TopicPartition, tuple[int, int]] = {}
        self._opens: dict[TopicPartition, tuple[int, float]] = {}
        """Where the first open transaction of a partition begins, and since when that is known."""
        internals.read_by(consumer, partial(_Fetched, self), self._note_open)

    def begin(self) -> None:
        """Begin a poll. An absent partition that held up the last one loses its place."""
        head = next(iter(self._waiting), None)
        if self._held_up and head is not None and head not in self._offered:
            del self._waiting[head]
        self._left = self._poll_bytes
        self._offered.clear()
        self._held_up = False

    def may_read(self, partition: TopicPartition) -> bool:
        """Whether it is this partition's turn; if not, it joins the row."""
        self._offered.add(partition)
        head = next(iter(self._waiting), partition)
        if head == partition and not self.exhausted:
            self._waiting.pop(partition, None)
            return True
        self._waiting.setdefault(partition)
        self._held_up |= head != partition
        return False

    @property
    def exhausted(self) -> bool:
        return self._left <= 0

    def spend(self, size: int) -> None:
        self._left -= size

    def failed_before(self, partition: TopicPartition, batch: Batch, checksum: int) -> bool:
        """Whether the same bytes came before: then the network did not spoil them."""
        seen = batch.head.base_offset, checksum
        again = self._failed.get(partition) == seen
        self._failed[partition] = seen
        return again

    def held_up_s(self, partition: TopicPartition, position: int) -> float:
        """Seconds since an open transaction hides this position, or 0. Any thread."""
        begins, since = self._opens.get(partition, (position + 1, 0.0))
        return time.monotonic() - since if position >= begins else 0.0

    def forget(self, partition: TopicPartition) -> None:
        """Forget the open transaction of a partition that left us. Any thread."""
        self._opens.pop(partition, None)

    def _note_open(self, partition: TopicPartition, told: Any) -> None:
        """Note an open transaction; brokers only mention partitions that changed."""
        stable = told.last_stable_offset
        if told.error_code or not 0 <= stable < told.high_watermark:
            self._opens.pop(partition, None)
        elif self._opens.get(partition, (-1, 0.0))[0] != stable:
            self._opens[partition] = stable, time.monotonic()


class _Fetched:
    """One partition's part of an answer; kafka-python uses the public attributes."""

    def __init__(
        self,
        reading: BoundedReading,
        partition: TopicPartition,
        fetch_offset: int,
        leader_epoch: int,
        aborted: Sequence[Any],
        on_drain: Callable[[Any], None],
    ) -> None:
        self.topic_partition = partition
        self.next_fetch_offset = fetch_offset
        self.leader_epoch = leader_epoch
        self.bytes_read = 0
        self._reading = reading
        self._aborting = deque(sorted(aborted, key=lambda transaction: transaction.first_offset))
        self._aborted: set[int] = set()
        self._on_drain = on_drain
        self._batches: Iterator[memoryview] | None = None
        self._end = 0
        self._size = 0

    def give(self, data: bytes, end: int) -> None:
        """Set the fetched bytes and the partition's end offset."""
        self._batches, self._size, self._end = batches(data), len(data), end

    def __bool__(self) -> bool:
        return self._batches is not None

    def drain(self) -> None:
        if self._batches is not None:
            self._batches = None
            self._on_drain(self)

    def take(self, _most: int | None = None) -> list[ReadRecord]:
        """Return all records that this poll may read, and empty it.

        Raises:
            CorruptRecordError: the position could not move. The broker is asked again, no sooner than at the next poll.
        """
        if not self._reading.may_read(self.topic_partition):
            self.drain()
            return []
        before, found = self.next_fetch_offset, list[ReadRecord]()
        spoilt = None
        for data in self._batches or ():
            if self._reading.exhausted:
                break
            try:
                found += self._read(Batch.of(data))
            except (Malformed, CorruptRecordError) as error:
                spoilt = str(error)
                break
        stays = self._size and self.next_fetch_offset == before and not self._reading.exhausted
        self.drain()
        if stays:
            raise CorruptRecordError(f"{Partition(*self.topic_partition)} at {before}: {spoilt or 'no whole batch'}")
        return found

    def _read(self, batch: Batch) -> list[ReadRecord]:
        checksum = batch.checksum
        failed = checksum != batch.head.crc
        if failed and not self._reading.failed_before(self.topic_partition, batch, checksum):
            raise CorruptRecordError(f"the batch at {batch.head.base_offset} fails its checksum; it is fetched again")
        first = self.next_fetch_offset
        last = min(batch.last_offset, self._end - 1) if failed else batch.last_offset
        self.next_fetch_offset = max(first, last + 1)
        self.leader_epoch = batch.head.leader_epoch
        self.bytes_read += len(batch.data)
        if self.next_fetch_offset == first or not (failed or self._is_for_readers(batch)):
            return []
        first = max(first, batch.head.base_offset)
        place = Partition(*self.topic_partition)
        try:
            if failed:
                raise Malformed("fails its checksum")
            records, size = batch.records(place, self._reading.batch_bytes)
        except TooLarge:
            why = f"more than {self._reading.batch_bytes} bytes in memory (a sixty-fourth of TAGSTREAM_MEMORY), "
            why += f"{len(batch.data)} as stored. Offsets {first} to {last}"
            unread = batch.unread(place, first, last, Unreadable("batch-too-large", why), keep=False)
        except Malformed as error:
            why = f"offsets {first} to {last}: {error}"
            unread = batch.unread(place, first, last, Unreadable("batch-unreadable", why), keep=True)
        else:
            self._reading.spend(size)
            return [record for record in records if record.offset >= first]
        # The attempt may have taken as long as the largest readable batch.
        self._reading.spend(self._reading.batch_bytes)
        return [unread]

    def _is_for_readers(self, batch: Batch) -> bool:
        while self._aborting and self._aborting[0].first_offset <= batch.last_offset:
            self._aborted.add(self._aborting.popleft().producer_id)
        if batch.control:
            if batch.ends_aborted():
                self._aborted.discard(batch.head.producer_id)
            return False
        return not (batch.transactional and batch.head.producer_id in self._aborted)
