"""One partition's log in the in-memory Kafka: records, transactions and their markers."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from workers.backends.kafka.types import ReadRecord
from workers.types import Partition


class TransactionState(enum.Enum):
    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(eq=False, slots=True)
class BrokerTransaction:
    """One transaction of one producer. `offsets` are pending until it is committed."""

    transactional_id: str
    producer_epoch: int
    state: TransactionState = TransactionState.OPEN
    partitions: set[Partition] = field(default_factory=set)
    offsets: dict[str, dict[Partition, int]] = field(default_factory=dict)


class _Entry(NamedTuple):
    """What stands at one offset: a record, or none: a transaction's marker, or more of an unreadable batch."""

    record: ReadRecord | None
    transaction: BrokerTransaction | None

    @property
    def aborted(self) -> bool:
        return self.transaction is not None and self.transaction.state is TransactionState.ABORTED


class Log:
    """One partition. Offsets are without gaps here; the gaps that readers see are markers and aborted records."""

    def __init__(self) -> None:
        self.start = 0
        self._entries: list[_Entry] = []
        self._first_open: dict[BrokerTransaction, int] = {}

    @property
    def end(self) -> int:
        return self.start + len(self._entries)

    @property
    def last_stable(self) -> int:
        """The first offset that a read_committed reader may not see yet."""
        return min(self._first_open.values(), default=self.end)

    def append(self, record: ReadRecord | None, transaction: BrokerTransaction | None) -> None:
        if transaction is not None:
            self._first_open.setdefault(transaction, self.end)
        self._entries.append(_Entry(record, transaction))

    def mark(self, transaction: BrokerTransaction) -> None:
        """Write the transaction's marker: its records are decided."""
        self._first_open.pop(transaction, None)
        self._entries.append(_Entry(None, transaction))

    def delete_below(self, offset: int) -> None:
        del self._entries[: max(0, offset - self.start)]
        self.start = max(self.start, offset)

    def committed_from(self, offset: int) -> list[ReadRecord]:
        entries = self._entries[max(0, offset - self.start) : self.last_stable - self.start]
        return [entry.record for entry in entries if entry.record is not None and not entry.aborted]
