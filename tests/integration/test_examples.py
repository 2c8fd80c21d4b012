"""The programs in examples/ work as described, on Apache Kafka."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from schemas.image_event import ImageEvent, parse_message
from tagstream_testing.local.apache_kafka import ApacheKafka
from tests.support.java import console_tools, java_program
from workers.backends.kafka import ensure_topics, tail

ROOT = Path(__file__).parents[2]
[OUTPUT] = [
    block
    for block in re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    if "enriched-image/1" in block
]
PERSONS_TAG = {"name": "terrier", "score": 1.0, "label_id": None, "source": "person"}


def _without_label_and_caption() -> str:
    """Every reader of tags must accept this: a tag that the model does not know, and no caption."""
    output = json.loads(OUTPUT)
    return json.dumps(output | {"tags": [PERSONS_TAG, *output["tags"]], "caption": None})


WITHOUT_LABEL_AND_CAPTION = _without_label_and_caption()


@pytest.fixture
def topic(kafka: ApacheKafka, topic_name: str) -> str:
    ensure_topics(kafka.servers, {topic_name: (2, {})})
    return topic_name


@pytest.fixture(params=["python", "java", "shell"])
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Run = Callable[..., str]


@pytest.fixture
def run(kafka: ApacheKafka, topic: str, language: str, tmp_path: Path) -> Run:
    """Runs an example in the language, expects the exit code, and returns its output or its error."""
    environment = os.environ | {"TAGSTREAM_KAFKA_SERVERS": kafka.servers, "TOPIC": topic, "GROUP": f"reads-{topic}"}
    if language == "shell":
        if shutil.which("jq") is None:
            pytest.skip("no jq")
        environment["PATH"] = f"{console_tools(tmp_path)}:{environment['PATH']}"

    def run(name: str, *arguments: str, code: int = 0) -> str:
        command = {
            "python": lambda: [sys.executable, str(ROOT / "examples" / f"{name}.py")],
            "java": lambda: java_program(ROOT / "examples" / f"{name.capitalize()}.java"),
            "shell": lambda: [str(ROOT / "examples" / f"{name}.sh")],
        }[language]()
        done = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    return run


def test_the_producer_sends_events_with_a_key(kafka: ApacheKafka, topic: str, language: str, run: Run) -> None:
    told = run("produce", "photos", "a b.jpg", "c.jpg")
    assert language == "shell" or told.startswith("2 of 2")
    with tail(kafka.servers, [topic], start="beginning", follow=False) as reading:
        records = {record.key: record.value for record in reading}
    assert set(records) == {b"photos/a b.jpg", b"photos/c.jpg"}
    for value in records.values():
        [event] = parse_message(value or b"", (), topic=topic, partition=0, offset=0)
        assert isinstance(event, ImageEvent)


def test_a_producer_without_a_key_names_the_missing_setting(run: Run) -> None:
    assert "BUCKET KEY [KEY ...]" in run("produce", "photos", code=1)


UNTIL_TWO = {"python": ["--until-end"], "java": ["2"], "shell": ["--from-beginning", "--max-messages", "2"]}


def test_the_consumer_shows_committed_outcomes_and_no_others(
    kafka: ApacheKafka, topic: str, language: str, run: Run
) -> None:
    producer = Producer({"bootstrap.servers": kafka.servers, "transactional.id": topic})
    producer.init_transactions(60)
    for key, end in (("lost", producer.abort_transaction), ("kept", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(topic, None, key="photos/a-tombstone", partition=0)
        message = WITHOUT_LABEL_AND_CAPTION.replace("2026/cat.png", f"2026/{key}.png")
        producer.produce(topic, message, key=f"photos/2026/{key}.png", partition=0)
        producer.flush(60)
        end(60)
    shown = run("consume", *UNTIL_TWO[language]).splitlines()
    assert [row.split("\t")[0] for row in shown] == ["photos/2026/kept.png"]
    assert re.search(r"terrier 1\S*, tiger cat 0\.39", shown[0])
    assert shown[0].split("\t")[2:] in ([], [""])


@pytest.mark.parametrize("language", ["python", "java"], indirect=True)
def test_the_consumer_ignores_outcomes_that_are_older_than_the_shown_one(
    kafka: ApacheKafka, topic: str, language: str, run: Run
) -> None:
    """By `version` alone, whatever the sequencers say; removed images stay removed, in one version too."""
    image = json.loads(OUTPUT)
    one = image["source"] | {"version_id": "v1", "sequencer": "F" * 128}
    gone = {"schema": "image-retraction/1", "scope": "object", "source": image["source"]}
    outputs = [
        image | {"subject": "first", "document_id": "a", "version": 7},
        image | {"subject": "older", "document_id": "a", "version": 6, "source": image["source"] | {"sequencer": "FF"}},
        gone | {"subject": "gone", "document_id": "a", "version": 8},
        image | {"subject": "back", "document_id": "a", "version": 7},
        gone | {"subject": "one", "document_id": "photos?versionId=v1/2026/cat.png", "version": 9, "scope": "version"},
        image | {"subject": "of one", "document_id": "b", "version": 9 - 1, "source": one},
        image | {"subject": "again", "document_id": "b", "version": 10, "source": one},
        {name: held for name, held in image.items() if name not in ("version", "document_id")}
        | {"subject": "no number"},
    ]
    producer = Producer({"bootstrap.servers": kafka.servers})
    for output in outputs:
        producer.produce(topic, json.dumps(output), key="a", partition=0)
    producer.flush(60)
    shown = run("consume", *{"python": ["--until-end"], "java": [str(len(outputs))]}[language]).splitlines()
    assert [row.split("\t")[0] for row in shown] == ["first", "gone", "one", "again", "no number"]
