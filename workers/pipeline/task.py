"""Tasks: each carries one event through the stages.

The `Task` of an event stays the same. Each phase wraps it in another class. One thread at a time owns a task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from opentelemetry.trace import Span

from schemas.dead_letter import Failure
from schemas.image_event import ImageEvent
from workers.pipeline.annotation import Annotation
from workers.pipeline.cache_entries import CacheWrite
from workers.pipeline.commit.ledger import Entry
from workers.pipeline.facts import FACTS
from workers.pipeline.flow.budget import Reservation
from workers.pipeline.profiles import Profile
from workers.ports import Model
from workers.types import Facts, Fetched, ImageAbout, Job, LogFields, Pixels, Transform

_NAMED = 3
"""Largest number of tasks that a log line names."""
_NO_IMAGE = ImageAbout("png", 1, 1)

Ending: TypeAlias = Literal["done", "dropped"]


@dataclass(slots=True, eq=False)
class Task:
    """One event, with the resources that it holds.

    Args:
        alone: whether this image must be the only one in the decoder and on the device.
        came_through: whether decoder and device have done with it, so that it is no suspect.
        reads_copy: whether the object's rendition was read in its place; None: neither was.
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
    came_through: bool = False
    reads_copy: bool | None = None
    ending: Ending = "dropped"
    _held: dict[str, Callable[[], object]] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.job)

    def log_fields(self, *, keys: bool) -> LogFields:
        span = self.span.get_span_context()
        trace = {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"} if span.is_valid else {}
        return {**self.job.log_fields(keys=keys), **trace}

    @property
    def event(self) -> ImageEvent:
        return self.job.event

    @property
    def current(self) -> bool:
        return self.job.assignment.current

    @property
    def background(self) -> bool:
        return self.job.assignment.background

    def took(self, stage: str, seconds: float) -> None:
        self.timings_ms[stage] = round(self.timings_ms.get(stage, 0.0) + max(0.0, seconds) * 1000, 3)

    def hold(self, resource: str, give_back: Callable[[], object]) -> None:
        """Record an acquired resource; `release` or `close` calls `give_back` once."""
        assert resource not in self._held, f"{resource} is held already"
        self._held[resource] = give_back

    def release(self, *resources: str) -> None:
        """Give back these resources; the task may hold only some of them."""
        for resource in resources:
            if give_back := self._held.pop(resource, None):
                give_back()

    def forget(self, resource: str) -> None:
        """Stop holding a resource without giving it back: it has a new owner."""
        self._held.pop(resource, None)

    def begin_again(self) -> None:
        """Give back what the stages hold, to read the original."""
        self.job, self.reads_copy = replace(self.job, original=True), False
        self.release(*[resource for resource in reversed(self._held) if resource not in ("span", "progress")])

    def close(self, ending: Ending) -> None:
        """End the task, and give back all resources in reverse order."""
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
    """All removal events of one object in a record; one HEAD request checks them."""

    task: Task
    removals: Sequence[Removal]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedTask:
    """A task with a fetched object; the intake holds the bytes."""

    task: Task
    annotation: Annotation
    fetched: Fetched


@dataclass(frozen=True, slots=True, eq=False)
class DescribedTask:
    """A task with facts of its image, from cache or header."""

    task: Task
    annotation: Annotation
    facts: Facts
    date: str | None


@dataclass(frozen=True, slots=True, eq=False)
class InspectedTask(DescribedTask):
    """A task after the reading of its header; the intake holds the bytes."""

    fetched: Fetched


@dataclass(slots=True, eq=False)
class Attempt:
    """One run of one image through the models. A second run makes a new attempt.

    Args:
        pixels: returns the image in a model's input format.
        about: format, size and orientation of the image; not those of self-test images.
        task: the image's task; None: the image belongs to no record.
        known_good: whether this is a self-test: `pixels` then returns each model's self-test image.
        answers: raw answer of each model, by role.
    """

    annotation: Annotation
    pixels: Callable[[Model], Pixels]
    task: Task | None = None
    known_good: bool = False
    about: ImageAbout = _NO_IMAGE
    answers: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class DecodedTask(DescribedTask):
    """A task with the pixels for each transform; the end of the task frees them."""

    images: dict[Transform, Pixels]
    reservation: Reservation | None = None

    @property
    def about(self) -> ImageAbout:
        return ImageAbout.in_file(self.facts, self.annotation.results.get(FACTS))

    def attempt(self) -> Attempt:
        return Attempt(self.annotation.copy(), lambda model: self.images[model.transform], self.task, about=self.about)

    def give_pixels_back(self, kept_bytes: int) -> None:
        """Free the pixels, and what the task holds for the device.

        Args:
            kept_bytes: of the reservation, for what goes on instead of them.
        """
        self.task.came_through = True
        self.task.release("pixels", "gate", "journal")
        if self.reservation is not None:
            self.reservation.keep(kept_bytes)


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedTask:
    """A task after its run through the models."""

    decoded: DecodedTask
    attempt: Attempt

    @property
    def task(self) -> Task:
        return self.decoded.task


@dataclass(frozen=True, slots=True, eq=False)
class CompleteTask(DescribedTask):
    """A task with all needed results, or reasons for missing ones.

    Args:
        failures: of this image alone.
        unanswered: of results that a service did not give; equal images share them.
    """

    failures: tuple[Failure, ...] = ()
    unanswered: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskNames:
    """The tasks of a batch for a log line: the text names three, the JSON fields all."""

    tasks: Sequence[Task]

    def __str__(self) -> str:
        shown = "; ".join(map(str, self.tasks[:_NAMED]))
        return shown if len(self.tasks) <= _NAMED else f"{shown} and {len(self.tasks) - _NAMED} more"

    def log_fields(self, *, keys: bool) -> LogFields:
        if len(self.tasks) == 1:
            return self.tasks[0].log_fields(keys=keys)
        return {"tagstream.event_ids": [task.event.id for task in self.tasks]}
