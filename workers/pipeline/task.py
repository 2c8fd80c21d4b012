"""A task: one job on its way through the pipeline, owned by one thread at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from opentelemetry.trace import Span

from schemas.correction import Word
from schemas.dead_letter import Failure
from schemas.image_event import ImageEvent
from workers.errors import Fault
from workers.pipeline.cache_entries import CacheWrite
from workers.pipeline.commit.ledger import Entry
from workers.pipeline.flow.budget import Reservation
from workers.pipeline.profiles import Profile
from workers.ports import Model
from workers.types import DecodedImage, Facts, Fetched, Job, LabelScores, LogFields, Pixels

_NAMED = 3
"""A line of the log names so many records of a batch."""

Ending: TypeAlias = Literal["done", "dropped"]


@dataclass(slots=True)
class Tries:
    """What came of asking the store for a task's object: the fetch stage decides by it what to try next."""

    failed: int = 0
    """How often the store has failed it."""
    fault: Fault | None = None
    """What the last of its failures said about the cause."""
    asked_at: float = 0.0
    """When it was last requested."""
    failed_at: float = 0.0
    """When the last of its failures came."""
    refused_at: float | None = None
    """When the first of its refusals in a row came."""
    failing_s: float = 0.0
    """For how long it has failed while others were read."""
    failing_since: float = 0.0
    """Up to when that is counted."""
    absent: int = 0
    """How often it was not there; of a removed one, how often it was there after all."""
    true_size: int | None = None
    """Bytes to reserve for the object, where its event says fewer than it has."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A removal event, and its cache write if the object is gone."""

    index: int
    event: ImageEvent
    write: CacheWrite


@dataclass(slots=True, eq=False)
class Task:
    """What is known so far of one job, and what it holds.

    Args:
        results: by role; from a lookup, the device, or the equal image that led.
        answers: by role, what its model returned and the finish thread has yet to make a result of.
        failures: by role, why its result is not to be had.
        hits: the roles whose result was not computed for this task.
        removals: all events of its message that say that this object is gone, where the store is asked whether it is.
    """

    job: Job
    entry: Entry
    profile: Profile
    span: Span
    stage: str = "lookup"
    since: float = 0.0
    facts: Facts | None = None
    fetched: Fetched | None = None
    read: Fetched | None = None
    """What was fetched, without its bytes: these are let go while it waits for an equal image."""
    image: DecodedImage | None = None
    results: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    hits: set[str] = field(default_factory=set)
    removals: list[Removal] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)
    encoded: Reservation | None = None
    decoded: Reservation | None = None
    flight: Hashable | None = None
    """Under which equal images wait for its results; or under which it waits for theirs."""
    source_hit: bool = False
    alone: bool = False
    known_good: bool = False
    """It is no record's: its image is each model's own, whose right answer that model knows."""
    tries: Tries = field(default_factory=Tries)
    timings_ms: dict[str, float] = field(default_factory=dict)
    selected: tuple[LabelScores, Sequence[tuple[int, float]]] | None = None
    """Scores, and the (label id, score) of those that its profile shows."""
    word: Word | None = None
    """People's corrections of its tags, once they were read."""
    word_asked: bool = False
    ending: Ending = "dropped"
    """How it ends."""
    roles: Sequence[Any] | None = None
    """The models' roles that its event wants, once known."""
    _held: dict[str, Callable[[], object]] = field(default_factory=dict)

    def __str__(self) -> str:
        """How the log names it: by its record."""
        return str(self.job)

    def log_fields(self, *, keys: bool) -> LogFields:
        """Its job's, and the trace that its span is of."""
        span = self.span.get_span_context()
        trace = {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"} if span.is_valid else {}
        return {**self.job.log_fields(keys=keys), **trace}

    @property
    def event(self) -> ImageEvent:
        return self.job.event

    @property
    def current(self) -> bool:
        return self.job.assignment.current

    def pixels(self, model: Model) -> Pixels:
        """Its decoded image as the model wants it."""
        if self.known_good:
            return model.self_test_image()
        assert self.image is not None
        return self.image.pixels[model.transform]

    @property
    def sha256(self) -> str:
        """The hash of its content, once that is known."""
        known = self.read or self.facts
        assert known is not None
        return known.sha256

    def share_results_of(self, leader: Task) -> None:
        """Take over what was found out about an equal image."""
        assert leader.facts is not None
        assert self.read is not None
        own = self.read
        self.facts = replace(leader.facts, etag=own.etag, version_id=own.version_id, last_modified=own.last_modified)
        self.results = dict(leader.results)
        self.hits = set(leader.results)

    def took(self, stage: str, seconds: float) -> None:
        self.timings_ms[stage] = round(self.timings_ms.get(stage, 0.0) + max(0.0, seconds) * 1000, 3)

    def hold(self, what: str, give_back: Callable[[], object]) -> None:
        """Note what it has acquired: `give_back` is called once, by `release` or at its end."""
        assert what not in self._held, f"{what} is held already"
        self._held[what] = give_back

    def release(self, *what: str) -> None:
        """Give these back now, as far as it holds them."""
        for name in what:
            if give_back := self._held.pop(name, None):
                give_back()

    def close(self, ending: Ending) -> None:
        """End it, for whatever reason: all that it holds is given back, the last acquired first."""
        self.ending = ending
        self.image = None  # memory before what bounds it
        try:
            while self._held:
                _, give_back = self._held.popitem()
                give_back()
        finally:
            if self._held:  # one could not be given back: the others are all the same
                self.close(ending)


@dataclass(frozen=True, slots=True)
class TaskNames:
    """The tasks of a batch, for the log: its text names the records of three, its fields the events of all."""

    tasks: Sequence[Task]

    def __str__(self) -> str:
        shown = "; ".join(map(str, self.tasks[:_NAMED]))
        return shown if len(self.tasks) <= _NAMED else f"{shown} and {len(self.tasks) - _NAMED} more"

    def log_fields(self, *, keys: bool) -> LogFields:
        if len(self.tasks) == 1:
            return self.tasks[0].log_fields(keys=keys)
        return {"tagstream.event_ids": [task.event.id for task in self.tasks]}
