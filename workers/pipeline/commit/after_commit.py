"""What is done once records are committed: they are counted, the cache is told, and reading goes on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import get_args

from schemas.dead_letter import REASONS_OF, Failure
from schemas.enriched_image import SkipReason
from workers import metrics
from workers.pipeline import tracing
from workers.pipeline.activity import Tally
from workers.pipeline.cache_entries import CacheWrite
from workers.pipeline.commit.ledger import Entry, Rendered
from workers.pipeline.drift import Drift
from workers.pipeline.event_filter import coordinates
from workers.pipeline.journal import Journal
from workers.ports import Clock
from workers.types import OUTCOME_KINDS

_log = logging.getLogger(__name__)


class AfterCommit:
    """Does all that follows from a commit. On the publish thread, in the ledger's order.

    Args:
        group: the consumer group, for the metrics.
        tell_cache: takes a commit's cache writes.
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
        _begin()

    def settle(self, entries: Sequence[Entry]) -> None:
        """These records are committed."""
        now = self._clock.monotonic()
        if self._journal.poison:
            self._journal.settled(coordinates(entry.record, index) for entry in entries for index in entry.outcomes)
        labels = {
            topic: metrics.messaging("process", topic=topic, group=self._group)
            for topic in {entry.record.partition.topic for entry in entries}
        }
        for entry in entries:
            context = tracing.example(map(tracing.carried, entry.traces.values())) if entry.traces else None
            metrics.PROCESS_SECONDS.record(now - entry.taken_at, context, **labels[entry.record.partition.topic])
            _log_dead_letter(entry)
        outcomes = [outcome for entry in entries for some in entry.outcomes.values() for outcome in some]
        self._tally.add(outcomes)
        _count(outcomes)
        self._drift.count(outcomes)
        self._tell_cache([write for entry in entries for write in entry.after_commit])
        self._read_on()


def _log_dead_letter(entry: Entry) -> None:
    """Log a dead letter: of which record, and why. Its key may be private, so only debug lines have it."""
    failures = [outcome for some in entry.outcomes.values() for outcome in some if isinstance(outcome, Failure)]
    if not failures:
        return
    where = coordinates(entry.record, failures[0].index)
    reasons = Counter(f"{each.reason} in {each.stage}" for each in failures)
    _log.info(
        "%s: dead letter, %s",
        where,
        ", ".join(f"{reason} ({count})" if count > 1 else reason for reason, count in reasons.items()),
    )
    _log.debug("%s: its dead letter has the key %r", where, entry.record.key)


def _begin() -> None:
    """Show every label of these."""
    for kind in OUTCOME_KINDS:
        metrics.OUTCOMES.begin(kind=kind)
    for stage, reasons in REASONS_OF.items():
        for reason in reasons:
            metrics.DEAD_LETTERS.begin(stage=stage, reason=reason)
    for why in get_args(SkipReason):
        metrics.SKIPS.begin(reason=why)


def _count(outcomes: Sequence[Rendered | Failure]) -> None:
    """Tell the metrics of these at once: a metric costs a third of what publishing an outcome does."""
    failures = Counter((each.stage, each.reason) for each in outcomes if isinstance(each, Failure))
    kinds = Counter((each.kind, each.reason) for each in outcomes if isinstance(each, Rendered))
    for (stage, reason), count in failures.items():
        metrics.DEAD_LETTERS.add(count, stage=stage, reason=reason)
        metrics.OUTCOMES.add(count, kind="dead-letter")
    for (kind, why), count in kinds.items():
        metrics.OUTCOMES.add(count, kind=kind)
        if kind == "skip":
            metrics.SKIPS.add(count, reason=why)
