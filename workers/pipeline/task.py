"""Tasks: jobs on their way through the pipeline, one type a phase.

| phase | content | next stages |
|---|---|---|
| `Task` | an event | lookup, fetch |
| `RemovalTask` | removal events | fetch |
| `LoadedTask` | the object's bytes | lookup, inspect |
| `InspectedTask` | the facts in its header | lookup, decode |
| `DecodedTask` | its pixels | annotate |
| `AnnotatedTask` | the models' answers | finish |
| `CompleteTask` | a result or a failure for each role that its event wants | finish |

All phases of a job share one `Task`. One thread at a time owns it; it knows the resources to give back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from opentelemetry.trace import Span

from schemas.dead_letter import Failure
from schemas.image_event import ImageEvent
from workers.pipeline.annotation import Annotation
from workers.pipeline.cache_entries import CacheWrite
from workers.pipeline.commit.ledger import Entry
from workers.pipeline.profiles import Profile
from workers.ports import Model
from workers.types import Facts, Fetched, Job, LogFields, Pixels, Transform

_NAMED = 3
"""Number of a batch's records that a log line names."""

Ending: TypeAlias = Literal["done", "dropped"]


@dataclass(slots=True, eq=False)
class Task:
    """The part of a job that all its phases share.

    Args:
        source_hit: whether the cache had the object's facts.
        alone: whether the image is a suspect, which decoder and device handle alone.
    """

    job: Job
    entry: Entry
    profile: Profile
    span: Span
    stage: str = "lookup"
    since: float = 0.0
    timings_ms: dict[str, float] = field(default_factory=dict)
    source_hit: bool = False
    alone: bool = False
    ending: Ending = "dropped"
    """How the task ends."""
    _held: dict[str, Callable[[], object]] = field(default_factory=dict)

    def __str__(self) -> str:
        """The record's coordinates."""
        return str(self.job)

    def log_fields(self, *, keys: bool) -> LogFields:
        """The job's fields, and the trace of its span."""
        span = self.span.get_span_context()
        trace = {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"} if span.is_valid else {}
        return {**self.job.log_fields(keys=keys), **trace}

    @property
    def event(self) -> ImageEvent:
        return self.job.event

    @property
    def current(self) -> bool:
        return self.job.assignment.current

    def took(self, stage: str, seconds: float) -> None:
        self.timings_ms[stage] = round(self.timings_ms.get(stage, 0.0) + max(0.0, seconds) * 1000, 3)

    def hold(self, what: str, give_back: Callable[[], object]) -> None:
        """Hold a resource; `release` or `close` calls `give_back` once."""
        assert what not in self._held, f"{what} is held already"
        self._held[what] = give_back

    def release(self, *what: str) -> None:
        """Give back each of these resources if it is held."""
        for name in what:
            if give_back := self._held.pop(name, None):
                give_back()

    def forget(self, what: str) -> None:
        """Stop holding a resource without giving it back: it has a new owner."""
        self._held.pop(what, None)

    def close(self, ending: Ending) -> None:
        """End the task: give back all that it holds, the last acquired first."""
        self.ending = ending
        try:
            while self._held:
                _, give_back = self._held.popitem()
                give_back()
        finally:
            if self._held:  # `give_back` raised an error: give back the rest
                self.close(ending)


@dataclass(frozen=True, slots=True)
class Removal:
    """A removal event, and its cache write if the object is gone."""

    index: int
    event: ImageEvent
    write: CacheWrite


@dataclass(frozen=True, slots=True)
class RemovalTask:
    """A message's removals of one object, to be checked by a HEAD."""

    task: Task
    removals: Sequence[Removal]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedTask:
    """A task with its object's bytes, which the intake holds."""

    task: Task
    annotation: Annotation
    fetched: Fetched


@dataclass(frozen=True, slots=True, eq=False)
class DescribedTask:
    """A task with its image's facts, from the cache or the header.

    Args:
        date: the date of the store's answer; None: the store was not asked.
    """

    task: Task
    annotation: Annotation
    facts: Facts
    date: str | None


@dataclass(frozen=True, slots=True, eq=False)
class InspectedTask(DescribedTask):
    """A task with a read header; the intake still holds its bytes."""

    fetched: Fetched


@dataclass(slots=True, eq=False)
class Attempt:
    """One image in one batch; a new attempt starts from the known results.

    Args:
        pixels: returns the image in a model's input format.
        answers: by role, the model's raw answer.
        failures: by role, why it has no result.
        known_good: a self-test without a record: each model gets its own test image and knows the right answer.
    """

    task: Task
    annotation: Annotation
    pixels: Callable[[Model], Pixels]
    known_good: bool = False
    answers: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class DecodedTask(DescribedTask):
    """A task with its pixels for each transform; they are freed when it ends."""

    images: dict[Transform, Pixels]

    def attempt(self) -> Attempt:
        """The task's image for a batch of the device."""
        return Attempt(self.task, self.annotation.copy(), lambda model: self.images[model.transform])


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedTask:
    """A task with its models' answers or failures."""

    decoded: DecodedTask
    attempt: Attempt

    @property
    def task(self) -> Task:
        return self.decoded.task


@dataclass(frozen=True, slots=True, eq=False)
class CompleteTask(DescribedTask):
    """A task with a result or failure for each wanted model role."""

    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskNames:
    """A batch's tasks for the log: text for three, fields for all."""

    tasks: Sequence[Task]

    def __str__(self) -> str:
        shown = "; ".join(map(str, self.tasks[:_NAMED]))
        return shown if len(self.tasks) <= _NAMED else f"{shown} and {len(self.tasks) - _NAMED} more"

    def log_fields(self, *, keys: bool) -> LogFields:
        if len(self.tasks) == 1:
            return self.tasks[0].log_fields(keys=keys)
        return {"tagstream.event_ids": [task.event.id for task in self.tasks]}
