"""Updates metrics, cache and journal after each commit."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from schemas.dead_letter import REASONS_OF, Failure
from schemas.enriched_image import SkipReason
from schemas.options import WANTS
from workers import metrics
from workers.pipeline import tracing
from workers.pipeline.cache_entries import CacheWrite
from workers.pipeline.commit.ledger import Entry, Rendered
from workers.pipeline.identity import reference
from workers.pipeline.journal import Journal
from workers.pipeline.options import WorkerOptions
from workers.pipeline.roles import Roles
from workers.ports import Clock
from workers.types import OUTCOME_KINDS, OutcomeKind

_log = logging.getLogger(__name__)


class Tally:
    """Counts committed outcomes. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[OutcomeKind, str]] = Counter()

    def add(self, outcomes: Sequence[Rendered | Failure]) -> None:
        with self._lock:
            for outcome in outcomes:
                self._counts[_kind(outcome)] += 1

    def counts(self) -> Counter[tuple[OutcomeKind, str]]:
        """The number of outcomes by kind and reason; most kinds have no reason."""
        with self._lock:
            return self._counts.copy()


@dataclass(eq=False)
class AfterCommit:
    """Does the work after a commit. Runs on the publish thread."""

    journal: Journal
    tally: Tally
    drift: Drift
    clock: Clock
    options: WorkerOptions
    tell_cache: Callable[[Sequence[CacheWrite]], None]
    read_on: Callable[[], None]

    def __post_init__(self) -> None:
        _begin()

    def settle(self, entries: Sequence[Entry]) -> None:
        now = self.clock.monotonic()
        if self.journal.poison:
            self.journal.settled(entry.where(index) for entry in entries for index in entry.outcomes)
        lanes = {entry.record.partition: self.options.lane(entry.record.partition) for entry in entries}
        labels = {
            place: metrics.messaging("process", topic=place.topic, group=self.options.group) | {"lane": lane}
            for place, lane in lanes.items()
        }
        for entry in entries:
            context = tracing.example(map(tracing.carried, entry.traces.values())) if entry.traces else None
            metrics.PROCESS_SECONDS.record(now - entry.taken_at, context, **labels[entry.record.partition])
            _log_dead_letter(entry)
        outcomes = _outcomes(entries)
        self.tally.add(outcomes)
        _count(outcomes)
        self.drift.count(_outcomes(entry for entry in entries if lanes[entry.record.partition] == "live"))
        self.tell_cache([write for entry in entries for write in entry.after_commit])
        self.read_on()


def _outcomes(entries: Iterable[Entry]) -> list[Rendered | Failure]:
    return [outcome for entry in entries for some in entry.outcomes.values() for outcome in some]


def _log_dead_letter(entry: Entry) -> None:
    """Log the record and reasons of a dead letter; its key only at debug level."""
    failures = [outcome for some in entry.outcomes.values() for outcome in some if isinstance(outcome, Failure)]
    if not failures:
        return
    where = entry.where(failures[0].index)
    reasons = Counter(f"{each.reason} in {each.stage}" for each in failures)
    _log.info(
        "%s: dead letter, %s",
        where,
        ", ".join(f"{reason} ({count})" if count > 1 else reason for reason, count in reasons.items()),
    )
    _log.debug("%s: its dead letter has the key %r", where, entry.record.key)


def _begin() -> None:
    """Set all counters to zero, so that their labels exist."""
    for kind in OUTCOME_KINDS:
        metrics.OUTCOMES.begin(kind=kind)
    for stage, reasons in REASONS_OF.items():
        for reason in reasons:
            metrics.DEAD_LETTERS.begin(stage=stage, reason=reason)
    for why in get_args(SkipReason):
        metrics.SKIPS.begin(reason=why)


def _count(outcomes: Sequence[Rendered | Failure]) -> None:
    """Count outcomes with one call for each label: calls are slow."""
    failures = Counter((each.stage, each.reason) for each in outcomes if isinstance(each, Failure))
    kinds = Counter((each.kind, each.reason) for each in outcomes if isinstance(each, Rendered))
    for (stage, reason), count in failures.items():
        metrics.DEAD_LETTERS.add(count, stage=stage, reason=reason)
        metrics.OUTCOMES.add(count, kind="dead-letter")
    for (kind, why), count in kinds.items():
        metrics.OUTCOMES.add(count, kind=kind)
        if kind == "skip":
            metrics.SKIPS.add(count, reason=why)


def _kind(outcome: Rendered | Failure) -> tuple[OutcomeKind, str]:
    if isinstance(outcome, Failure):
        return "dead-letter", outcome.reason
    if outcome.kind == "skip":
        return "skip", outcome.reason
    return outcome.kind, ""


NUMBERS_OF_TAGS = {bound: f"{bound:02}" for bound in (0, 1, 2, 4, 8, 16, 32, 64)}
NUMBERS_OF_WORDS = {bound: f"{bound:02}" for bound in (0, 1, 4, 8, 12, 16, 20, 24, 32, 48)}
TENTHS = {tenth: f"0.{tenth}" for tenth in range(10)}
"""First value and name of each class. The names sort like the values."""


class Drift:
    """Counts tags, scores and words of live images, to show drift.

    Values are counted in classes. A histogram metric would need a call for each value.
    """

    def __init__(self, roles: Roles) -> None:
        models = {role.use: reference(role.model) for role in roles.kept}
        self._tagger = models.get("tagger")
        self._captioner = models.get("captioner", "template")
        if self._tagger is not None:
            for tags in NUMBERS_OF_TAGS.values():
                metrics.TAGGED_IMAGES.begin(model=self._tagger, tags=tags)
            for score in TENTHS.values():
                metrics.TAGS.begin(model=self._tagger, score=score)
        self._added = {role.name: reference(role.model) for role in roles.kept if role.name not in WANTS}
        for words in NUMBERS_OF_WORDS.values():
            metrics.CAPTIONED_IMAGES.begin(model=self._captioner, words=words)
            for role, model in self._added.items():
                metrics.ADDED_RESULTS.begin(role=role, model=model, words=words)

    def count(self, outcomes: Iterable[Rendered | Failure]) -> None:
        contents = [each.content for each in outcomes if isinstance(each, Rendered) and each.content is not None]
        scores = [content.scores for content in contents if content.scores is not None]
        words = [content.words for content in contents if content.words is not None]
        if self._tagger is not None:
            _add(metrics.TAGGED_IMAGES, self._tagger, "tags", _classes(map(len, scores), NUMBERS_OF_TAGS))
            _add(metrics.TAGS, self._tagger, "score", _classes(b"".join(scores), TENTHS))
        _add(metrics.CAPTIONED_IMAGES, self._captioner, "words", _classes(words, NUMBERS_OF_WORDS))
        for role, model in self._added.items():
            words = [content.results[role] for content in contents if role in content.results]
            _add(metrics.ADDED_RESULTS, model, "words", _classes(words, NUMBERS_OF_WORDS), role=role)


def _classes(values: Iterable[int], classes: Mapping[int, str]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for value, count in Counter(values).items():
        found[classes[max(bound for bound in classes if bound <= value)]] += count
    return found


def _add(metric: metrics.Counter, model: str, label: str, counts: Mapping[str, int], **more: str) -> None:
    for value, count in counts.items():
        metric.add(count, model=model, **{label: value}, **more)
