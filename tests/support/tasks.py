"""Tasks as the stages hand them on, made by hand: for tests without a pipeline."""

from collections.abc import Mapping
from typing import Any

from opentelemetry.trace import INVALID_SPAN

from schemas.image_event import ImageEvent
from schemas.options import Options
from tests.support.harness import ChoosyTagger
from workers.pipeline.annotation import Annotation
from workers.pipeline.commit.ledger import Entry
from workers.pipeline.profiles import read_profiles
from workers.pipeline.task import Attempt, CompleteTask, Task
from workers.types import Assignment, Coordinates, Facts, Job, Partition, Pixels, Record, Transform

FACTS = Facts("a" * 64, "etag", None, "2026-01-01T00:00:00Z", 100, "png", 8, 8, 1000)
TAGGER = ChoosyTagger()
PROFILES = read_profiles(TAGGER, {"reds": {"only": ["red"]}, "strict": {"all": 0.9}})


def a_task(event: Mapping[str, Any] | None = None, **options: Any) -> Task:
    """A task of photos/a.png with these options. `event`: other fields of its event."""
    assignment = Assignment(Partition("images", 0), "member")
    asked = Options(**options)
    own = ImageEvent(
        dialect="own",
        action="enrich",
        index=0,
        **{"id": "1", "bucket": "photos", "key": "a.png", "options": asked, **(event or {})},
    )
    record = Record(assignment.partition, 0, 0, None, b"{}", (), assignment)
    job = Job(Coordinates("images", 0, 0, 0), assignment, own)
    return Task(job, Entry(record, 0.0), PROFILES[asked.profile or "default"], INVALID_SPAN)


def record_at(assignment: Assignment, offset: int, value: bytes = b"{}") -> Record:
    return Record(assignment.partition, offset, 0, None, value, (), assignment)


def annotation(event: Mapping[str, Any] | None = None, **options: Any) -> Annotation:
    """A content with a hash alone."""
    task = a_task(event, **options)
    return Annotation(task.event, task.profile, FACTS.sha256)


def an_attempt(images: Mapping[Transform, Pixels], **options: Any) -> Attempt:
    task = a_task(**options)
    return Attempt(Annotation(task.event, task.profile, FACTS.sha256), lambda model: images[model.transform], task)


def complete(
    event: Mapping[str, Any] | None = None,
    facts: Facts = FACTS,
    results: Mapping[str, Any] | None = None,
    **options: Any,
) -> CompleteTask:
    task = a_task(event, **options)
    return CompleteTask(task, Annotation(task.event, task.profile, facts.sha256, dict(results or {})), facts, None)
