"""A pipeline without threads on a clock that the test owns: every step is taken when the test says so."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tagstream_testing.memory import ManualClock, MemoryObjectStore, MemoryResultCache
from tests.support.harness import BUCKET, IN, ColourTagger, png
from tests.support.inline_intake import InlineIntake
from tests.support.remote import AnyFields
from workers.intake import Limits
from workers.pipeline.options import WorkerOptions
from workers.pipeline.pipeline import Pipeline
from workers.pipeline.profiles import default_profiles
from workers.pipeline.roles import ModelRole, make_roles
from workers.pipeline.stages.stage import LaneQueue, QueueStage
from workers.pipeline.worker import Worker
from workers.ports import CorrectionLog, Intake, RemoteCaptioner, ResultCache
from workers.types import Assignment, FactsMode, Headers, Message, Outcome, Partition, Record


class NoPublisher:
    """Enough of one for a pipeline that publishes nothing."""

    max_message_bytes: Mapping[str, int] = {"out": 1 << 20, "dead": 1 << 20}


def none_of_this(*_: object) -> Any:
    raise AssertionError("a manual pipeline joins no group")


BEHIND = "images.backfill"
"""A background topic."""


class ManualPipeline:
    """A worker's pipeline: `events` come in, `turn` moves them as far as they can, `done` has the outcomes.

    The last `background` of its partitions are of a background topic.
    """

    def __init__(
        self,
        partitions: int = 1,
        background: int = 0,
        intake: Intake | None = None,
        make_intake: Callable[[MemoryObjectStore], Intake] | None = None,
        tagger: ColourTagger | None = None,
        cache: ResultCache | None = None,
        corrections: CorrectionLog | None = None,
        facts: FactsMode = "off",
        added: Sequence[ModelRole] = (),
        remote: RemoteCaptioner | None = None,
        **options: Any,
    ) -> None:
        self.clock = ManualClock()
        self.store = MemoryObjectStore(clock=self.clock)
        self.store.make_bucket(BUCKET)
        self.tagger = tagger = tagger or ColourTagger()
        self.cache = cache or MemoryResultCache(clock=self.clock)
        self.options = WorkerOptions(
            output_topic="out",
            dead_letter_topic="dead",
            profiles=default_profiles(tagger),
            background=frozenset([BEHIND] if background else []),
            **options,
        )
        roles = make_roles(
            {"tagger": tagger}, None, corrections, facts=facts, added=added, remote=remote, fields=AnyFields()
        )
        transforms = [tagger.transform, *(role.model.transform for role in roles.kept)]
        if make_intake is not None:
            intake = make_intake(self.store)
        self.intake: Any = intake or InlineIntake(
            self.store, transforms, Limits(facts=facts), rendition=self.options.rendition
        )
        self.worker = Worker(
            source=none_of_this,
            publisher=none_of_this,
            intake=self.intake,
            cache=self.cache,
            roles=roles,
            clock=self.clock,
            options=self.options,
        )
        self.pipeline: Pipeline = self.worker.make_pipeline(NoPublisher())  # type: ignore[arg-type]
        self.assignments = [
            Assignment(Partition(BEHIND if behind else IN, number), "m", behind)
            for number in range(partitions)
            for behind in [number >= partitions - background]
        ]
        for assignment in self.assignments:
            self.pipeline.ledger.open(assignment, 0)
        self.sent = [0] * partitions
        """Records of each partition."""
        self.done: dict[tuple[int, int, int], tuple[Outcome, ...]] = {}

    def put(self, *keys: str) -> None:
        for number, key in enumerate(keys):
            self.store.put(BUCKET, key, png((number, len(key), 9)))

    def events(self, *keys: str, partition: int = 0, bucket: str = BUCKET, timestamp_ms: int = 0, **more: Any) -> None:
        for key in keys:
            event = {"schema": "image-event/1", "id": key, "bucket": bucket, "key": key, **more}
            self.send(json.dumps(event).encode(), partition, timestamp_ms)

    def give(self, *keys: str, partition: int = 0, **more: Any) -> None:
        """Put images and send their events."""
        self.put(*keys)
        self.events(*keys, partition=partition, **more)

    def handle(self, *keys: str, **more: Any) -> None:
        """Send events and let them proceed."""
        self.events(*keys, **more)
        self.turn()

    def send(
        self,
        value: bytes | None,
        partition: int = 0,
        timestamp_ms: int = 0,
        key: bytes | None = None,
        headers: Headers = (),
    ) -> int:
        offset, self.sent[partition] = self.sent[partition], self.sent[partition] + 1
        assignment = self.assignments[partition]
        self.pipeline.take(Record(assignment.partition, offset, timestamp_ms, key, value, headers, assignment))
        return offset

    def turn(self) -> None:
        """Let every task proceed until all wait for time."""
        pipeline = self.pipeline
        for stage in pipeline.stages:
            stage.poll()
        pipeline.parse.work()
        threads = [stage for stage in pipeline.stages if isinstance(stage, QueueStage) and stage is not pipeline.finish]
        while any(len(stage) for stage in (*threads, pipeline.finish)):
            for stage in threads:
                stage.work()
            pipeline.finish.work(0)
            self.complete()

    def complete(self, most: int = 100_000) -> None:
        """Let this many finished records enter the ledger."""
        queue = self.pipeline.finish.done
        behind = queue.background.take(most) if isinstance(queue, LaneQueue) else []
        for done in queue.take(most) + behind:
            record = done.entry.record
            self.done[record.partition.number, record.offset, done.index] = done.outcomes
            self.pipeline.finish.enter([done])

    def commit_all(self) -> None:
        """Let all finished records be committed, and the cache be written."""
        while ready := self.pipeline.ledger.ready(1_000, 1_000_000):
            self.pipeline.ledger.settle(ready)
            self.pipeline.settle(ready.entries)
        self.pipeline.lookup.work()

    def remove(self, key: str) -> None:
        """Remove an object, and commit what its event leads to."""
        self.store.remove(BUCKET, key)
        gone = {"eventName": "ObjectRemoved:Delete", "s3": {"bucket": {"name": BUCKET}, "object": {"key": key}}}
        self.send(json.dumps({"Records": [gone]}).encode())
        self.turn()
        self.commit_all()

    def turns(self, seconds: float, every_s: float = 0.1) -> None:
        """Turns as the poll thread takes them, while this time passes."""
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            self.turn()
            self.clock.advance(every_s)
        self.turn()

    @property
    def in_flight(self) -> dict[str, int]:
        return {stage: count for stage, count in self.pipeline.progress.counts().items() if count}

    @property
    def reads(self) -> list[str]:
        """Keys in the order of their reads from the store."""
        return [key for _, key in self.store.reads]

    def messages(self) -> list[Message]:
        ready = self.pipeline.ledger.ready(1_000, 1_000_000)
        return list(ready.transaction.messages) if ready else []
