"""What polling and publishing know of the work on records in between: a pipeline, or `tagstream retag --go`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from workers.pipeline.commit.ledger import Entry, Ledger
from workers.pipeline.stages.stage import Stage
from workers.types import Assignment, Record


class Work(Protocol):
    """Turns admitted records into messages of its ledger."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def stages(self) -> Sequence[Stage]: ...

    def take(self, record: Record, *repeats: Record) -> bool:
        """Admit a polled record, and those behind it that repeat it. False: none was. Poll thread."""
        ...

    def open(self, assignment: Assignment, offset: int) -> int:
        """Begin an assignment at its committed offset; returns the offset to read from. Poll thread."""
        ...

    def settle(self, entries: Sequence[Entry]) -> None:
        """These records are committed. Publish thread."""
        ...

    def render_again(self) -> None:
        """The topics' limits may have changed since messages were rendered. Publish thread."""
        ...
