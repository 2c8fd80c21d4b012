"""How fast `tagstream retag plan` is beside reading the enriched topic alone, and what memory it takes.

    python -m benchmarks.retag [SUBJECTS [ROUNDS]]      a million and 3 by default: 3 GB on the disk, half an hour

Outcomes are as a tagger of RAM's size publishes them: 14 tags and 25 stored scores each. Planning and planning take
turns.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from confluent_kafka import Consumer, Producer, TopicPartition
from kafka.partitioner import murmur2

from schemas import writing
from schemas.image_event import ImageEvent
from schemas.stored_scores import SCORES_HEADER, StoredScores
from schemas.version import VERSION_HEADER
from tagstream_testing.local.apache_kafka import ApacheKafka
from workers.assembly.retagging import current_settings, make_plan
from workers.assembly.topic_reading import read_topic
from workers.backends.kafka import ensure_topics
from workers.environment import read
from workers.models.bundle import Bundle
from workers.models.manifest import Manifest, Provenance
from workers.pipeline.annotation import Annotation
from workers.pipeline.options import WorkerOptions
from workers.pipeline.rendering import Renderer
from workers.ports import SystemClock
from workers.retag.planning import OutcomeChoice
from workers.settings import Settings
from workers.types import Coordinates, Facts, LabelScores, Transform

SUBJECTS = 1_000_000
ROUNDS = 3
LABELS = 4_585
TOPIC, INPUT, GROUP = "images.enriched", "images", "tagstream"
PARTITIONS = 6
PROGRAM = """
import re, sys
from workers.cli.app import run_command
code = run_command(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
sys.exit(code)
"""
"""`tagstream`, which tells in the end the most memory that it had, in kB."""
_KEY = "2026/0000000000/picture.jpg"
_PLACE, _WHERE = b'"partition":0,"offset":987654321', b'"partition":%d,"offset":%d'
"""The input record that an outcome names, and that of each subject."""
_DIFFERENT = 2_000
"""Images whose scores differ; the others have those of one of these."""


def bundle(folder: Path) -> Bundle:
    """A tagger's bundle that can't run: a plan reads no weights."""
    manifest = Manifest(
        kind="none",
        name="as large as RAM",
        provenance=Provenance(source="none"),
        transform=Transform(384),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        thresholds=0.6,
        floor=0.3,
    )
    labels = [f"label {number}" for number in range(LABELS)]
    languages = {"zh": [f"name {number}" for number in range(LABELS)]}
    return Bundle.write(folder, manifest, weights={"none": torch.zeros(1)}, labels=labels, translations=languages)


def outcomes(settings: Settings) -> list[tuple[bytes, bytes]]:
    """Different outcomes of the subject photos/_KEY: value and stored scores."""
    today, chance = current_settings(settings), random.Random(0)
    renderer = Renderer(today.roles(), WorkerOptions(), {}, SystemClock())
    assert today.tagger is not None
    facts = Facts("c" * 64, "d" * 32, None, "2026-01-01T00:00:00Z", 120_000, "jpeg", 1920, 1080, 0)
    made = []
    for _ in range(_DIFFERENT):
        ids = np.array(sorted(chance.sample(range(LABELS), 25)), np.int32)
        scores = np.array([chance.uniform(0.3, 1) for _ in ids], np.float32)
        event = ImageEvent("17B8E6A5D3F1C2A0", "s3", "enrich", 0, "photos", _KEY, etag="d" * 32)
        image = Annotation(event, today.profiles["default"], facts.sha256, {"tags": LabelScores(ids, scores)})
        where = Coordinates(INPUT, 0, 987654321, 0)
        timings = {"fetch": 3.1, "decode": 8.0, "annotate": 12.5}
        document = renderer.enriched(
            image, facts, where, 10**15, timings_ms=timings, cache=writing.cache(source="miss", tags="miss")
        )
        best = sorted(zip(ids.tolist(), scores.tolist(), strict=True), key=lambda pair: -pair[1])
        stored = StoredScores(today.tagger.digest, None, "bf16", today.tagger.floor, tuple(best))
        made.append((document.value, stored.encode()))
    return made


def fill(servers: str, settings: Settings, subjects: int) -> int:
    """Produce an event and its outcome for each subject; returns the bytes of the outcomes' values."""
    for topic, policy in {INPUT: "delete", TOPIC: "compact", settings.dead_letter_topic: "delete"}.items():
        ensure_topics(servers, {topic: (PARTITIONS, {"cleanup.policy": policy, "min.compaction.lag.ms": "86400000"})})
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 50, "compression.type": "lz4"})
    size, offsets = 0, [0] * PARTITIONS
    for number, (value, scores) in zip(range(subjects), _again(outcomes(settings)), strict=False):
        name = b"2026/%010d/picture.jpg" % number
        key = b"photos/" + name
        place = (murmur2(key) & 0x7FFFFFFF) % PARTITIONS  # as Java's clients and the workers choose it
        document = value.replace(_KEY.encode(), name).replace(_PLACE, _WHERE % (place, offsets[place]))
        event = b'{"schema":"image-event/1","id":"%d","bucket":"photos","key":"%b"}' % (number, name)
        offsets[place] += 1
        headers: list[tuple[str, str | bytes | None]] = [
            ("traceparent", b"0" * 55),
            (VERSION_HEADER, b"1000000000000000"),
            (SCORES_HEADER, scores),
        ]
        producer.produce(INPUT, event, key, place)
        producer.produce(TOPIC, document, key, place, headers=headers)
        size += len(document)
        while len(producer) > 50_000:
            producer.poll(0.1)
    producer.flush(120)
    group = Consumer({"bootstrap.servers": servers, "group.id": GROUP})
    group.commit(offsets=[TopicPartition(INPUT, *place) for place in enumerate(offsets)], asynchronous=False)
    group.close()
    return size


def _again(made: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    while True:
        yield from made


def timed(work: Callable[[], object], subjects: int) -> tuple[float, float]:
    """Subjects a second, by the clock and by this process's processor time."""
    began, used = time.perf_counter(), time.process_time()
    work()
    return subjects / (time.perf_counter() - began), subjects / (time.process_time() - used)


def memory(environment: dict[str, str], plan: Path) -> tuple[dict[str, object], int]:
    """The report of the command as a process, and the most memory that it had, in bytes."""
    command = [sys.executable, "-c", PROGRAM, "retag", "plan", "-o", str(plan), "--json"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    report: dict[str, object] = json.loads(done.stdout)
    return report, 1024 * int(done.stderr.split()[-1])


def measure(folder: Path, servers: str, subjects: int, rounds: int) -> None:
    environment = {
        "TAGSTREAM_KAFKA_SERVERS": servers,
        "TAGSTREAM_TAGGER": str(bundle(folder / "bundle").folder),
        "TAGSTREAM_STATE_DIR": str(folder / "state"),
    }
    size = fill(servers, read(environment), subjects)
    print(f"{subjects:,} subjects, {size / subjects:,.0f} bytes of JSON each")  # noqa: T201
    plan = folder / "plan"
    for threshold in (0.6, 0.605, 0.5):
        path = folder / "profiles.json"
        path.write_text(json.dumps({"default": {"all": threshold}}))
        changed = environment | {"TAGSTREAM_PROFILES": str(path)}
        settings = read(changed)
        for _ in range(rounds):
            alone = timed(partial(read_topic, settings, TOPIC, lambda record: None), subjects)
            planned = timed(partial(make_plan, settings, plan, OutcomeChoice()), subjects)
            print(  # noqa: T201
                f"threshold {threshold}: reading alone {alone[0]:,.0f}/s ({alone[1]:,.0f} by processor time), planning "
                f"{planned[0]:,.0f}/s ({planned[1]:,.0f}): {planned[0] / alone[0]:.2f} ({planned[1] / alone[1]:.2f})"
            )
        report, most = memory(changed, plan)
        print(f"  {report['unchanged']:,} unchanged, {report['rescored']:,} rescored; {most / 2**20:.0f} MiB at most")  # noqa: T201


def main() -> None:
    given = [int(each) for each in sys.argv[1:] if each.isdigit()]
    subjects, rounds = (*given, *(SUBJECTS, ROUNDS)[len(given) :])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kafka = ApacheKafka(folder / "kafka")
        try:
            kafka.start()
            measure(folder, kafka.servers, subjects, rounds)
        finally:
            kafka.kill()


if __name__ == "__main__":
    main()
