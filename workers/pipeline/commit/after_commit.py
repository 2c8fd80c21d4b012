"""What is done once records are committed: they are counted, the cache is told, and reading goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

from schemas.dead_letter import Failure
from workers import metrics
from workers.pipeline.activity import Tally
from workers.pipeline.cache_entries import CacheWrite
from workers.pipeline.commit.ledger import Entry, Rendered
from workers.pipeline.drift import Drift
from workers.pipeline.event_filter import coordinates
from workers.pipeline.journal import Journal
from workers.ports import Clock
from workers.types import OutcomeKind


class AfterCommit:
    """Does all that follows from a commit. On the publish thread, in the ledger's order.

    Args:
        group: the consumer group, for the metrics.
        tell_cache: takes what the cache is told of a commit.
        read_on: told that there may be room for more records.
    """

    def __init__(
        self,
        journal: Journal,
        tally: Tally,
        drift: Drift,
        clock: Clock,
        group: str,
        *,
        tell_cache: Callable[[Sequence[CacheWrite]], None],
        read_on: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._tally = tally
        self._drift = drift
        self._clock = clock
        self._group = group
        self._tell_cache = tell_cache
        self._read_on = read_on
        for kind in (*get_args(OutcomeKind), "dead-letter"):  # or the first of a kind would be no increase
            metrics.OUTCOMES.add(0, kind=kind)

    def settle(self, entries: Sequence[Entry]) -> None:
        """These records are committed."""
        now = self._clock.monotonic()
        if self._journal.poison:
            self._journal.settled(coordinates(entry.record, index) for entry in entries for index in entry.outcomes)
        for entry in entries:
            attributes = metrics.messaging("process", topic=entry.record.partition.topic, group=self._group)
            metrics.PROCESS_SECONDS.record(now - entry.taken_at, **attributes)
            for outcomes in entry.outcomes.values():
                _count(outcomes)
                self._tally.add(outcomes)
        self._drift.count(outcome for entry in entries for some in entry.outcomes.values() for outcome in some)
        self._tell_cache([write for entry in entries for write in entry.after_commit])
        self._read_on()


def _count(outcomes: Sequence[Rendered | Failure]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            metrics.DEAD_LETTERS.add(stage=outcome.stage, reason=outcome.reason)
            metrics.OUTCOMES.add(kind="dead-letter")
            continue
        metrics.OUTCOMES.add(kind=outcome.kind)
        if outcome.kind == "skip":
            metrics.SKIPS.add(reason=outcome.reason)
