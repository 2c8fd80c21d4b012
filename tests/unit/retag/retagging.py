"""An enriched topic in memory, and runs of plans about it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from schemas.correction import CorrectionRecord, Word, correction, withdrawal
from schemas.version import VERSION_HEADER
from tagstream_testing.memory import ManualClock, MemoryCorrections
from tagstream_testing.memory_kafka import MemoryBroker, MemoryPublisher
from tests.support.corrections import said
from tests.support.harness import QuickSource
from tests.unit.retag.stored import outcome, retraction, today
from workers.assembly.progress import Pace
from workers.pipeline.options import WorkerOptions
from workers.republish.passes import Spans
from workers.retag.current import CurrentSettings
from workers.retag.plan_file import PlanFile, PlanHead, write_plan
from workers.retag.plan_run import PlanRun, RunReport
from workers.retag.planned_work import group_of
from workers.retag.planning import Newest, OutcomeChoice, Planning
from workers.retag.remake import Remaker
from workers.types import Message, Partition, ReadRecord

TOPIC, EVENTS = "images.enriched", "images"
V = 1_700_000_000_000_000


class MemoryTopic:
    """`hidden.ReadTopic` on a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.before: Callable[[], None] = lambda: None
        """Called before each read of the whole topic."""

    def read(self, take: Callable[[ReadRecord], None], spans: Spans | None) -> None:
        if spans is None:
            self.before()
        for record in self._broker.visible(TOPIC):
            first, end = (spans or {}).get(Partition(TOPIC, record.partition), (0, 0))
            if spans is None or first <= record.offset < end:
                with suppress(ValueError):  # a foreign record
                    take(record)


class EnrichedTopic:
    def __init__(self, partitions: int, *others: str) -> None:
        self.broker = MemoryBroker()
        for name in (TOPIC, *others):
            self.broker.create_topic(name, partitions)

    def send(
        self, key: bytes, value: bytes | None, version: int | None = None, headers: Any = (), place: int | None = None
    ) -> None:
        told = () if version is None else ((VERSION_HEADER, b"%d" % version),)
        with self.broker.changed:
            self.broker.send(Message(TOPIC, key, value, (*told, *headers), place), None)
            self.broker.changed.notify_all()

    def retraction(self, key: str, version: int = V, version_id: str | None = None) -> None:
        gone = retraction(key, version, version_id)
        self.send(gone.message_key, gone.to_bytes(), version)


class Retagging(EnrichedTopic):
    """Outcomes of a tagger with the threshold 0.5 (`then`), and settings with 0.3 (`now`)."""

    def __init__(self, folder: Path, partitions: int = 2) -> None:
        self.folder = folder
        self.then, self.now = today(folder, thresholds=0.5), today(folder, thresholds=0.3)
        super().__init__(partitions, EVENTS)
        self.topic = MemoryTopic(self.broker)
        self.corrections = MemoryCorrections()
        self._said: list[CorrectionRecord] = []
        self.options = WorkerOptions(transaction_outcomes=4, drain_s=5)

    def outcome(
        self,
        key: str,
        version: int = V,
        *,
        by: CurrentSettings | None = None,
        scores: Mapping[str, float] | None = None,
        word: Word | None = None,
        **more: Any,
    ) -> Partition:
        document, headers = outcome(by or self.then, scores or {"red": 0.9, "green": 0.4}, key=key, word=word, **more)
        document["version"] = version
        self.send(document["subject"].encode(), orjson.dumps(document), version, headers)
        return Partition(TOPIC, self.broker.visible(TOPIC)[-1].partition)

    def tombstone(self, key: str, version: int) -> None:
        self.send(f"photos/{key}".encode(), None, version)

    def say(self, key: str, *added: str, removed: Collection[str] = ()) -> None:
        one = bool(added or removed)
        word = correction("photos", key, added=added, removed=removed) if one else withdrawal("photos", key)
        self._said.append(word)
        self.corrections.produce(word)
        self.corrections.follow(0)

    def remaker(self) -> Remaker:
        return Remaker(self.now, said(*self._said), ManualClock())

    def plan(self, name: str = "plan", *, facts: bool = False) -> PlanFile:
        with Newest() as newest:
            reading, ends = Planning(self.remaker(), newest, OutcomeChoice(facts=facts)), dict[int, int]()
            for record in self.broker.visible(TOPIC):
                reading.take(record)
            for number in range(len(self.partitions)):
                ends[number] = self.broker.end(Partition(TOPIC, number))
            found = newest.settle()
            counts = {fate: sum(found.of(fate).values()) for fate in ("rescore", "image")}
            head = PlanHead(
                made_at="2026-01-01T00:00:00Z",
                topic=TOPIC,
                topic_id="",
                ends=ends,
                settings=self.now.parts,
                counts=counts,
                lines=found.planned,
            )
            write_plan(self.folder / name, head, newest.planned())
        return PlanFile.open(self.folder / name)

    def planned(self, *keys: str, **more: Any) -> PlanFile:
        """The plan of these outcomes."""
        for key in keys:
            self.outcome(key, **more)
        return self.plan()

    @property
    def partitions(self) -> list[Partition]:
        with self.broker.changed:
            return [place for place in self.broker._logs if place.topic == TOPIC]

    def prepare(self, plan: PlanFile, **more: Any) -> PlanRun:
        group = group_of(plan.digest, chosen=plan.only is not None)
        source = QuickSource(self.broker, group, [TOPIC])
        publisher = MemoryPublisher(
            self.broker, group, group, membership=source.membership, output_topics=[TOPIC, EVENTS]
        )
        return PlanRun(
            plan,
            self.remaker(),
            self.topic.read,
            source=source,
            publisher=publisher,
            events_to=EVENTS,
            options=self.options,
            clock=ManualClock(),
            **{"pace": Pace(None), **more},
        )

    def go(self, plan: PlanFile | None = None, **more: Any) -> RunReport:
        return self.prepare(plan or self.plan(), **more).run()

    def killed(self, plan: PlanFile, after: int) -> None:
        """Run, and end like a killed process before this transaction is committed."""
        left = threading.Semaphore(after)

        def strike() -> None:
            if not left.acquire(blocking=False):
                raise Killed

        self.broker.before_commit = strike
        going = self.prepare(plan)
        try:
            going.run()
        except Killed:
            pass
        finally:
            self.broker.before_commit = None

    def records(self, key: str | None = None) -> list[ReadRecord]:
        wanted = None if key is None else f"photos/{key}".encode()
        return [each for each in self.broker.visible(TOPIC) if key is None or each.key == wanted]

    def documents(self, key: str | None = None) -> list[dict[str, Any]]:
        return [orjson.loads(each.value) for each in self.records(key) if each.value is not None]

    def newest(self, key: str) -> dict[str, Any]:
        return max(self.documents(key), key=lambda each: int(each["version"]))

    def tags(self, key: str) -> list[str]:
        return [tag["name"] for tag in self.newest(key)["tags"]]

    def events(self) -> list[dict[str, Any]]:
        return [orjson.loads(each.value or b"") for each in self.broker.visible(EVENTS)]


class Killed(BaseException):
    """The process dies here."""
