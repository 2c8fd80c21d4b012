"""A task: one job on its way through the pipeline, owned by one thread at a time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.trace import Span

from schemas.dead_letter import Failure
from schemas.image_event import ImageEvent
from workers.errors import Fault
from workers.pipeline.commit.ledger import Entry
from workers.pipeline.flow.budget import Reservation
from workers.pipeline.profiles import Profile
from workers.ports import Model
from workers.types import Coordinates, DecodedImage, Facts, Fetched, Job, Pixels

_NAMED = 3
"""A line of the log names so many records of a batch."""


@dataclass(slots=True, eq=False)
class Task:
    """What is known so far of one job, and what it holds.

    Args:
        results: by role; from a lookup, the device, or the equal image that led.
        answers: by role, what its model returned and the finish thread has yet to make a result of.
        failures: by role, why its result is not to be had.
        hits: the roles whose result was not computed for this task.
    """

    job: Job
    entry: Entry
    profile: Profile
    span: Span
    stage: str = "lookup"
    since: float = 0.0
    facts: Facts | None = None
    fetched: Fetched | None = None
    image: DecodedImage | None = None
    results: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    hits: set[str] = field(default_factory=set)
    failures: dict[str, Failure] = field(default_factory=dict)
    encoded: Reservation | None = None
    decoded: Reservation | None = None
    slot: Reservation | None = None
    """One of the GETs that may run at the same time."""
    flight: Hashable | None = None
    source_hit: bool = False
    inspected: bool = False
    """The facts are those of the bytes in hand, and no cache's."""
    alone: bool = False
    inside: bool = False
    """Past the gate: its header is being read, or it is between decoder and finish."""
    in_journal: bool = False
    true_size: int | None = None
    """Bytes to reserve for the object, where its event says fewer than it has."""
    attempts: int = 0
    """How often the store has failed it."""
    asked_at: float = 0.0
    """When it was last asked for."""
    failed_at: float = 0.0
    """When the last of its failures came, and what it said about the cause."""
    fault: Fault | None = None
    failing_since: float = 0.0
    """When the first was asked of the tries that failed in a row while others were read."""
    reference: Job | None = None
    """What is read again before it, to compare."""
    timings_ms: dict[str, float] = field(default_factory=dict)

    @property
    def event(self) -> ImageEvent:
        return self.job.event

    @property
    def current(self) -> bool:
        return self.job.assignment.current

    def pixels(self, model: Model) -> Pixels:
        """Its decoded image as the model wants it."""
        assert self.image is not None
        return self.image.pixels[model.transform]

    def share_results_of(self, leader: Task) -> None:
        """Take over what was computed for an equal image."""
        self.results = dict(leader.results)
        self.hits = set(leader.results)

    def took(self, stage: str, seconds: float) -> None:
        self.timings_ms[stage] = round(self.timings_ms.get(stage, 0.0) + seconds * 1000, 3)

    def give_back(self) -> None:
        """Release every reservation."""
        for reservation in (self.encoded, self.decoded, self.slot):
            if reservation is not None:
                reservation.release()
        self.encoded = self.decoded = self.slot = None


def named(images: Sequence[Coordinates]) -> str:
    """The records of a batch, for the log: three by their coordinates, the others as a number."""
    shown = "; ".join(map(str, images[:_NAMED]))
    return shown if len(images) <= _NAMED else f"{shown} and {len(images) - _NAMED} more"
