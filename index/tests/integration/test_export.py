"""`tagstream export parquet` from a real Kafka."""

import json
import random
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from index.tests.support import (
    BUCKET,
    FACTS,
    MODEL,
    THUMBHASH,
    Said,
    enriched,
    expected,
    lost_and_kept,
    results,
    retraction,
    story,
    vector_of,
)
from schemas.stored_scores import StoredScores
from tagstream_index import exporting
from tagstream_testing.local.apache_kafka import ApacheKafka
from tests.fixtures import Unique
from tests.support.command import Tagstream
from workers.backends.kafka import KafkaEmitter, ensure_topics, extents
from workers.cli.app import run_command
from workers.errors import MISCONFIGURED, UNAVAILABLE

pytestmark = pytest.mark.servers


class ExportedTopic:
    def __init__(self, kafka: ApacheKafka, topic: str, folder: Path, tagstream: Tagstream) -> None:
        self.kafka, self.topic, self.folder, self._tagstream = kafka, topic, folder, tagstream
        ensure_topics(kafka.servers, {topic: (3, {})})

    def publish(self, told: Iterable[Said], rng: random.Random | None = None) -> None:
        with KafkaEmitter(self.kafka.servers) as emitter:
            for each in told:
                emitter.send(self.topic, each.key if rng is None else rng.randbytes(4), each.value, each.headers)
            emitter.flush()

    def send(self, *values: bytes | None) -> None:
        with KafkaEmitter(self.kafka.servers) as emitter:
            for value in values:
                emitter.send(self.topic, b"photos/any", value)
            emitter.flush()

    def send_at(self, timestamp_ms: int, said: Said) -> None:
        with KafkaEmitter(self.kafka.servers) as emitter:
            emitter._producer.send(self.topic, said.value, said.key, timestamp_ms=timestamp_ms)

    def export(self, *arguments: str) -> dict[str, Any]:
        said: dict[str, Any] = self._tagstream("export", "parquet", self.folder, "--json", *arguments).json
        return said

    def rows(self) -> list[dict[str, Any]]:
        return [row for path in sorted(self.folder.iterdir()) for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def world(
    kafka: ApacheKafka, unique: Unique, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tagstream: Tagstream
) -> ExportedTopic:
    made = ExportedTopic(kafka, unique("export"), tmp_path / "out", tagstream)
    monkeypatch.setenv("TAGSTREAM_KAFKA_SERVERS", kafka.servers)
    monkeypatch.setenv("TAGSTREAM_OUTPUT_TOPIC", made.topic)
    return made


def results_by_subject(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """As `expected`, without the versions of removed images."""
    numbers = {row["subject"]: row["embedding"] for row in rows if row["embedding"] is not None}
    vectors = {subject: np.array(vector).astype("<f2").tobytes() for subject, vector in numbers.items()}
    return {row["subject"]: (row["gone"], row["caption"], vectors.get(row["subject"])) for row in rows}


def test_the_newest_outcome_of_each_subject_is_in_the_file_of_its_partition(
    world: ExportedTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "GROUP_ROWS", 100)
    told = story(random.Random(1), subjects=400, length=5)
    world.publish(told, random.Random(2))
    said = world.export()
    rows = world.rows()
    assert results_by_subject(rows) == {subject: row[2:] for subject, row in expected(told).items()}
    assert len(rows) == len(expected(told)) == said["rows"]
    names = [f"part-0000{number}.parquet" for number in range(3)]
    assert sorted(path.name for path in world.folder.iterdir()) == names == [each["file"] for each in said["files"]]
    ends = {place.number: extent.end for place, extent in extents(world.kafka.servers, [world.topic]).items()}
    for number, name in enumerate(names):
        file = pq.ParquetFile(world.folder / name).metadata
        told_inside = json.loads(file.metadata[b"tagstream"])
        assert told_inside == {"topic": world.topic, "partition": number, "next_offset": ends[number]}
        assert file.row_group(0).column(0).compression == "ZSTD"
        sizes = [file.row_group(group).num_rows for group in range(file.num_row_groups)]
        assert all(100 <= size < 200 for size in sizes[:-1]), "small groups are joined, and none is large"


@pytest.mark.parametrize("options", [[], ["--all"]])
def test_large_outcomes_are_held_in_memory_a_few_at_a_time(
    world: ExportedTopic, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr(exporting, "_GROUP_BYTES", 100_000)
    world.publish(enriched(f"{number}", 1, caption=f"{number} " + "x" * 10_000) for number in range(300))
    world.export(*options)
    for path in world.folder.iterdir():
        file = pq.ParquetFile(path).metadata
        assert file.num_rows > 40
        assert max(file.row_group(group).num_rows for group in range(file.num_row_groups)) <= 20


def test_all_committed_outcomes_are_exported(world: ExportedTopic) -> None:
    lost_and_kept(world.kafka.servers, world.topic)
    world.publish([enriched("a", 1), enriched("a", 2), retraction("a", 3, version_id="v")])
    assert world.export("--all")["rows"] == 4
    found = sorted((row["subject"], row["version"], row["gone"], row["of_version"]) for row in world.rows())
    kept = ("photos/kept", 1, False, False)
    assert found == [*(("photos/a", n, False, False) for n in (1, 2)), ("photos/a", 3, True, True), kept]


def test_a_row_has_all_fields_of_the_outcome(world: ExportedTopic) -> None:
    scores = StoredScores(MODEL, "b" * 16, "fp32", 0.25, ((7, 0.75), (3, 0.5)))
    tag = {
        "name": "Hund\x00",
        "score": 0.5,
        "label_id": None,
        "source": "person",
        "translations": {"de": "Hund"},
        "parents": ["animal"],
    }
    others = {"tags": [tag], "corrections": {"added": ["Hund"], "removed": []}, "results": results(sign={"text": "a"})}
    told = enriched("ä.jpg", 5, vector=vector_of(1), in_header=True, scores=scores.encode()).but(**others)
    told = told.with_facts(**FACTS)
    world.publish([told, enriched("b", 1, vector=vector_of(2), scores=b"?"), retraction("c", 9)])
    world.export()
    other, gone, row = sorted(world.rows(), key=lambda row: str(row["subject"]))
    assert (row["subject"], row["bucket"], row["key"], row["version"]) == (f"{BUCKET}/ä.jpg", BUCKET, "ä.jpg", 5)
    assert row["produced_at"] == row["last_modified"] == datetime(2026, 1, 1, tzinfo=UTC)
    assert (row["width"], row["height"], row["bytes"], row["format"]) == (640, 480, 1234, "jpeg")
    assert (row["taken_local"], row["taken_offset"]) == (datetime(2025, 6, 1, 10), -210)  # noqa: DTZ001
    assert (row["orientation"], row["phash"], row["thumbhash"]) == (6, -2, THUMBHASH)
    assert (row["latitude"], row["longitude"]) == (-33.5, 151.25)
    assert row["tags"] == [tag | {"name": "Hund\ufffd", "translations": [("de", "Hund")]}]
    assert row["scores"] == {
        "tagger": MODEL,
        "labels": "b" * 16,
        "precision": "fp32",
        "floor": 0.25,
        "label_ids": [7, 3],
        "values": [0.75, 0.5],
    }
    assert row["embedding"] == np.frombuffer(vector_of(1), "<f2").tolist()
    assert (row["embedding_space"], row["embedding_model"]) == ("clip-vit-b-16", MODEL)
    assert json.loads(row["corrections"]) == others["corrections"]
    assert (json.loads(row["results"]), other["results"]) == (others["results"], None)
    assert json.loads(row["provenance"])["status"] == "complete"
    assert other["embedding"] == np.frombuffer(vector_of(2), "<f2").tolist()
    assert other["scores"] is None
    assert (gone["gone"], gone["subject"], gone["caption"], gone["tags"]) == (True, "photos/c", None, None)


def test_records_that_cannot_be_read_are_counted_and_named(
    world: ExportedTopic, caplog: pytest.LogCaptureFixture
) -> None:
    large = {"name": "x", "score": 0.5, "label_id": 2**64 - 1}
    world.send(b"{", None, enriched("large", 1).but(tags=[large]).value)
    world.publish([enriched("a", 1), enriched("b", 1)])
    assert world.export()["unreadable"] == 2
    assert {row["subject"] for row in world.rows()} == {"photos/a", "photos/b"}
    named = [line for line in caplog.messages if "passed over" in line]
    assert len(named) == 2
    assert all(f"{world.topic}:" in line for line in named)


def test_a_records_impossible_time_is_left_out(world: ExportedTopic) -> None:
    world.send_at(-(10**15), enriched("a", 1))
    world.send_at(1_767_225_600_000, enriched("b", 1))
    assert world.export()["rows"] == 2
    times = {row["subject"]: row["record_at"] for row in world.rows()}
    assert times == {"photos/a": None, "photos/b": datetime(2026, 1, 1, tzinfo=UTC)}


def test_without_pyarrow_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tagstream: Tagstream, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "tagstream_index.exporting")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = tagstream("export", "parquet", tmp_path / "out", KAFKA_SERVERS="127.0.0.1:1").fails()
    assert "pip install 'pyarrow" in " ".join(said.split())


def test_a_folder_that_is_not_empty_is_refused(world: ExportedTopic, tagstream: Tagstream) -> None:
    world.folder.mkdir()
    (world.folder / "mine").touch()
    assert str(world.folder) in tagstream("export", "parquet", world.folder).fails()
    assert [path.name for path in world.folder.iterdir()] == ["mine"]


def test_an_export_that_fails_leaves_no_file(world: ExportedTopic, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish([enriched("a", 1)])
    full = exporting._TABLE + "; pragma max_page_count = 1"
    monkeypatch.setattr(exporting, "_TABLE", full)
    monkeypatch.setattr(exporting, "_REMEMBER", "insert into newest select :id, 1, 1, 1, 1, zeroblob(100000), 1, 1")
    assert run_command(["export", "parquet", str(world.folder)]) == MISCONFIGURED
    assert list(world.folder.iterdir()) == []
    monkeypatch.setenv("TAGSTREAM_KAFKA_SERVERS", "127.0.0.1:1")
    absent = world.folder.with_name("absent")
    assert run_command(["export", "parquet", str(absent)]) == UNAVAILABLE
    assert not absent.exists()
