"""A worker on in-memory fakes, with a tagger that sees colours: fast, and every fault is a switch."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from schemas.dead_letter import DeadLetter, read_dead_letter_headers
from schemas.enriched_image import EnrichedImage, Retraction, Skip, read_output
from tagstream_testing.memory import MemoryObjectStore, MemoryResultCache
from tagstream_testing.memory_broker import MemoryBroker
from tagstream_testing.memory_kafka import MemoryPublisher, MemoryRecordSource
from tests.support.images import encoded
from tests.support.inline_intake import ThreadedIntake
from tests.support.remote import AnyFields
from tests.support.waiting import eventually
from workers.backends.kafka.types import Delivery
from workers.intake import Limits
from workers.pipeline.profiles import default_profiles
from workers.pipeline.roles import ModelRole, ModelsByUse, make_roles
from workers.pipeline.worker import Worker, WorkerOptions
from workers.ports import CorrectionLog, Publisher, RecordSource, RemoteCaptioner, SystemClock
from workers.types import Caption, FactsMode, Headers, LabelScores, Pixels, Polled, Subset, Transform

IN, OUT, DEAD, SKIPPED = "images", "images.enriched", "images.dead-letters", "images.skipped"
GROUP = "tagstream"
BUCKET = "photos"
POISON = (7, 7, 7)
"""A colour that makes the models raise."""


class ColourTagger:
    """Labels red, green and blue, scored by how much of each there is."""

    name = "colours"
    digest = "c" * 64
    precision = "fp32"
    transform = Transform(8)
    max_batch = 8
    random_weights = False
    labels: Sequence[str] = ("red", "green", "blue")
    translations: Mapping[str, Sequence[str]] = {}
    thresholds: Sequence[float] = (0.5, 0.5, 0.5)
    profiles: Mapping[str, Sequence[float]] = {"paper": (0.75, 0.75, 0.75)}
    floor = 0.01

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.broken = False
        self.nan = False
        self.memory: int | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()

    def warm_up(self) -> None:
        return

    def self_test_image(self) -> Pixels:
        return np.full((8, 8, 3), 200, np.uint8)

    def forward(self, images: Sequence[Pixels]) -> Sequence[Any]:
        self.waiting.set()
        assert self.gate.wait(30)
        if self.broken:
            raise RuntimeError("the device is gone")
        if self.memory is not None and len(images) > self.memory:
            raise MemoryError
        if any(tuple(image[0, 0]) == POISON for image in images):
            raise RuntimeError("poison")
        self.batches.append(len(images))
        return [image.reshape(-1, 3).mean(0) / (np.nan if self.nan else 255) for image in images]

    def postprocess(self, raw: Any) -> LabelScores:
        if not np.isfinite(raw).all():
            raise ValueError("not a number")
        ids = np.flatnonzero(raw >= self.floor).astype(np.int32)
        return LabelScores(ids, raw[ids].astype(np.float32))


class ChoosyTagger(ColourTagger):
    """Can score some of its labels alone, and remembers the requests."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Subset | None] = []
        self.fails_on_subsets = False

    def forward_subsets(self, images: Sequence[Pixels], subsets: Sequence[Subset | None]) -> Sequence[Any]:
        if self.fails_on_subsets:
            raise RuntimeError("no column may be left out")
        raws = self.forward(images)
        self.asked += subsets
        return [
            raw if subset is None else (subset.ids, raw[list(subset.ids)])
            for raw, subset in zip(raws, subsets, strict=True)
        ]

    def postprocess(self, raw: Any) -> LabelScores:
        if not isinstance(raw, tuple):
            return super().postprocess(raw)
        ids, values = raw
        if not np.isfinite(values).all():
            raise ValueError("not a number")
        kept = values >= self.floor
        return LabelScores(np.array(ids, np.int32)[kept], values[kept].astype(np.float32))


class EchoCaptioner:
    """Captions are the guide itself."""

    name = "echo"
    digest = "e" * 64
    precision = "fp32"
    transform = Transform(4)
    max_batch = 8
    random_weights = False
    options_digest = "greedy"

    def __init__(self) -> None:
        self.guides: list[str] = []
        self.fails = False

    def warm_up(self) -> None:
        return

    def self_test_image(self) -> Pixels:
        return np.full((4, 4, 3), 200, np.uint8)

    def guide(self, names: Sequence[str]) -> str:
        return " | ".join(names)

    def forward(self, images: Sequence[Pixels], guides: Sequence[str]) -> Sequence[Any]:
        if self.fails and any(tuple(image[0, 0]) != (200, 200, 200) for image in images):
            raise RuntimeError("no words")
        self.guides += guides
        return [f"saw {guide}" for guide in guides]

    def postprocess(self, raw: Any) -> Caption:
        return Caption(raw, -0.5, "greedy")


def png(colour: tuple[int, int, int], size: int = 16) -> bytes:
    return encoded(Image.new("RGB", (size, size), colour), "png")


def template(names: Sequence[str]) -> Caption:
    return Caption(" and ".join(names) or "nothing", None, "template")


class QuickSource(MemoryRecordSource):
    """Polls return soon, so that partitions open, and a drain ends, without a wait."""

    def poll(self, timeout_s: float) -> Polled:
        return super().poll(min(timeout_s, 0.01))


MakePublisher: TypeAlias = Callable[[RecordSource], Publisher]


class Harness:
    """A worker's dependencies, and its outcomes."""

    def __init__(self, partitions: int = 2) -> None:
        self.broker = MemoryBroker()
        self.broker.create_topic(IN, partitions)
        for topic in (OUT, DEAD, SKIPPED):
            self.broker.create_topic(topic, 3)
        self.store = MemoryObjectStore()
        self.store.make_bucket(BUCKET)
        self.cache = MemoryResultCache()
        self.tagger = ColourTagger()
        self.captioner: EchoCaptioner | None = None
        self.corrections: CorrectionLog | None = None
        self.added: Sequence[ModelRole] = ()
        self.remote: RemoteCaptioner | None = None
        self.refused_keys: Callable[[], str | None] = lambda: ""
        self.keep_scores = True
        self.facts: FactsMode = "off"
        self.publisher_hangs: str | None = None
        self.wrap_source: Callable[[Callable[[], RecordSource]], Callable[[], RecordSource]] = lambda make: make
        self.wrap_publisher: Callable[[MakePublisher], MakePublisher] = lambda make: make
        self.delivery: Delivery = "exactly_once"
        self.partitions = partitions
        self.topics = [IN]
        self.appended: list[tuple[int, int]] = []

    def put(self, key: str, colour: tuple[int, int, int]) -> str:
        return self.store.put(BUCKET, key, png(colour)).etag

    def send(
        self, value: bytes | dict[str, Any], partition: int = 0, headers: Headers = (), key: bytes | None = b"k"
    ) -> int:
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        offset = self.broker.append(IN, partition, key, raw, headers)
        self.appended.append((partition, offset))
        return offset

    def event(self, key: str, **more: Any) -> dict[str, Any]:
        return {"schema": "image-event/1", "id": f"id-{key}", "bucket": BUCKET, "key": key, **more}

    def notification(
        self, *keys: str, name: str = "ObjectCreated:Put", sequencers: Sequence[str] = ()
    ) -> dict[str, Any]:
        return {
            "Records": [
                {
                    "eventSource": "minio:s3",
                    "eventName": f"s3:{name}",
                    "eventTime": "2026-01-02T03:04:05Z",
                    "s3": {
                        "bucket": {"name": BUCKET},
                        "object": {"key": key} | ({"sequencer": sequencers[number]} if sequencers else {}),
                    },
                }
                for number, key in enumerate(keys)
            ]
        }

    def give(self, key: str, colour: tuple[int, int, int], partition: int = 0, **event: Any) -> None:
        """Put an image and send its event."""
        self.put(key, colour)
        self.send(self.event(key, **event), partition=partition)

    def worker(self, name: str = "w", **changes: Any) -> Worker:
        quick: dict[str, Any] = {"drain_s": 5.0, "retry_min_s": 0.01, "retry_max_s": 0.05}
        options = WorkerOptions(
            output_topic=OUT,
            dead_letter_topic=DEAD,
            skipped_topic=SKIPPED,
            worker_version="test",
            **{"judge": "the harness's limits", "profiles": default_profiles(self.tagger), **quick, **changes},
        )
        models = ModelsByUse(tagger=self.tagger)
        if self.captioner is not None:
            models["captioner"] = self.captioner
        roles = make_roles(
            models,
            template,
            self.corrections,
            keep_scores=self.keep_scores,
            facts=self.facts,
            added=self.added,
            remote=self.remote,
            fields=AnyFields(),
        )
        transforms = [role.model.transform for role in roles.kept]

        def publisher(source: RecordSource) -> MemoryPublisher:
            made = MemoryPublisher(
                self.broker,
                GROUP,
                name,
                membership=source.membership,
                output_topics=(OUT, DEAD, SKIPPED),
                delivery=self.delivery,
            )
            made.stuck = lambda: self.publisher_hangs  # type: ignore[method-assign]
            return made

        return Worker(
            source=self.wrap_source(lambda: QuickSource(self.broker, GROUP, self.topics)),
            publisher=self.wrap_publisher(publisher),
            intake=ThreadedIntake(self.store, transforms, Limits(facts=self.facts)),
            cache=self.cache,
            corrections=self.corrections,
            refused_keys=self.refused_keys,
            roles=roles,
            clock=SystemClock(),
            options=options,
        )

    @contextmanager
    def running(self, name: str = "w", **changes: Any) -> Iterator[Worker]:
        """A worker in a thread; drained at the end. Its errors are raised here."""
        worker = self.worker(name, **changes)
        with running(worker):
            yield worker

    def work(self, name: str = "w", **changes: Any) -> None:
        with self.running(name, **changes):
            self.settled()

    def run_to_its_end(self) -> None:
        """A worker without a stop: its error is raised here."""
        self.worker().run()

    def settled(self, timeout_s: float = 20) -> None:
        """Wait until all sent events are committed."""
        ends: dict[int, int] = {}
        for partition, offset in self.appended:
            ends[partition] = max(ends.get(partition, 0), offset + 1)
        eventually(
            lambda: all(
                committed.get(number, 0) >= end
                for committed in [{p.number: o for p, o in self.broker.committed(GROUP).items()}]
                for number, end in ends.items()
            ),
            timeout_s,
            pause_s=0.002,
            last_pause_s=0.01,
        )

    def outputs(self) -> list[EnrichedImage | Retraction]:
        found = [read_output(record.value) for record in self.broker.visible(OUT) if record.value is not None]
        assert not any(isinstance(item, Skip) for item in found)
        return [item for item in found if not isinstance(item, Skip)]

    def enriched(self) -> dict[str, EnrichedImage]:
        return {item.source.key: item for item in self.outputs() if isinstance(item, EnrichedImage)}

    def skips(self) -> list[Skip]:
        found = [read_output(record.value or b"") for record in self.broker.visible(SKIPPED)]
        return [item for item in found if isinstance(item, Skip)]

    def dead(self) -> list[DeadLetter]:
        return [read_dead_letter_headers(record.headers) for record in self.broker.visible(DEAD)]

    def failures(self) -> list[tuple[str, str]]:
        """Stage and reason of all dead letters."""
        return [(failure.stage, failure.reason) for dead_letter in self.dead() for failure in dead_letter.failures]

    def coordinates(self) -> list[tuple[int, int, int]]:
        """(partition, offset, index) of every outcome there is, sorted: the delivery invariant is checked by this
        list."""
        events = [item.event for item in self.outputs()] + [item.event for item in self.skips()]
        found = [(event.partition, event.offset, event.index) for event in events]
        for dead_letter in self.dead():
            found += [
                (dead_letter.partition, dead_letter.offset + number, failure.index)
                for number in range(max(1, len(dead_letter.keys)))
                for failure in dead_letter.failures
            ]
        return sorted(found)


@contextmanager
def running(worker: Worker) -> Iterator[None]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except BaseException as error:  # noqa: BLE001  # handed to the test below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(30)
    assert not thread.is_alive(), "the worker did not end"
    if errors:
        raise errors[0]
