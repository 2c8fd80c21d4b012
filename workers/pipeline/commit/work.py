"""The work between polling and publishing: a pipeline, or `tagstream retag --go`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from workers.pipeline.commit.ledger import Entry, Ledger
from workers.pipeline.stages.stage import Stage
from workers.ports import Publisher, RecordSource
from workers.types import Assignment, Record

_log = logging.getLogger(__name__)


class Work(Protocol):
    """Turns admitted records into messages of its ledger."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def stages(self) -> Sequence[Stage]: ...

    def take(self, record: Record, *repeats: Record) -> bool:
        """Admit a polled record and its repeats; False: its assignment ended. Poll thread."""
        ...

    def open(self, assignment: Assignment, offset: int) -> int:
        """Begin an assignment at its committed offset; returns the offset to read from. Poll thread."""
        ...

    def settle(self, entries: Sequence[Entry]) -> None:
        """Follow up on these committed records. Publish thread."""
        ...

    def render_again(self) -> None:
        """Render messages again that exceed changed topic limits. Publish thread."""
        ...


def close_quietly(name: str, closable: RecordSource | Publisher | None) -> None:
    """Close a client at the end of the process; log its error instead of raising it."""
    if closable is None:
        return
    try:
        closable.close()
    except Exception as error:  # noqa: BLE001
        _log.warning("the %s did not close: %s", name, error)
