"""The compose file's Kafka, run here: the program with which its image turns the environment into a configuration,
and the broker itself are Apache Kafka's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from confluent_kafka.admin import AdminClient

from tests.conftest import up_or_skip
from tests.unit.deploy.tools import compose
from workers.local import programs
from workers.local.apache_kafka import ApacheKafka
from workers.local.scratch import Scratch

pytestmark = pytest.mark.servers


class ComposedKafka(ApacheKafka):
    """The broker as the compose file configures it, on loopback ports: INSIDE, CONTROLLER and OUTSIDE in this order."""

    name: ClassVar[str] = "Kafka of the compose file"
    port_count: ClassVar[int] = 3

    def prepare(self) -> None:
        self._java = programs.java()
        for name in ("default", "mounted", "final", "data"):
            (self.folder / name).mkdir(exist_ok=True)
        # The image has both; what they say does not matter here.
        (self.folder / "default" / "server.properties").touch()
        setup = ["setup", "--default-configs-dir", "default", "--mounted-configs-dir", "mounted"]
        subprocess.run(
            [*self.java("kafka.docker.KafkaDockerWrapper"), *setup, "--final-configs-dir", "final"],
            env=self.environment(),
            cwd=self.folder,
            check=True,
            capture_output=True,
            timeout=60,
        )

    def command(self) -> Sequence[str]:
        return [*self.java("kafka.Kafka"), str(self.folder / "final" / "server.properties")]

    def java(self, main: str) -> list[str]:
        return [self._java, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", programs.kafka_class_path(), main]

    def environment(self) -> Mapping[str, str]:
        """The service's, with this machine's addresses and folder in it."""
        service = compose()["services"]["kafka"]["environment"]
        environment = {name: self.here(value) for name, value in service.items()}
        return {"PATH": os.environ["PATH"], **environment, "KAFKA_LOG_DIRS": str(self.folder / "data")}

    def here(self, text: str) -> str:
        """`text` with the compose network's addresses replaced by ours."""
        inside, controller, outside = (f"127.0.0.1:{port}" for port in self.ports)
        for theirs, ours in (("9092", inside), ("9093", controller), ("29092", outside)):
            text = re.sub(rf"(?<![\w.])(kafka|127\.0\.0\.1)?:{theirs}\b", ours, text)
        return text


@pytest.fixture(scope="module")
def broker(scratch: Scratch) -> Iterator[ComposedKafka]:
    yield from up_or_skip(ComposedKafka(scratch.path / "compose-kafka"))


@pytest.fixture
def kafka_tools(broker: ComposedKafka, tmp_path: Path) -> Path:
    """A folder with Kafka's scripts, as the image has them under /opt/kafka/bin. Their jar is not among the broker's,
    so a small program takes their place: it knows only the options that the compose file uses."""
    script = tmp_path / "kafka-topics.sh"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("kafka_topics.py")} "$@"\n')
    script.chmod(0o755)
    return tmp_path


def test_the_topics_are_made_and_made_again_without_complaint(broker: ComposedKafka, kafka_tools: Path) -> None:
    service = compose()["services"]["topics"]
    for _ in range(2):
        words = [*service["entrypoint"], *service["command"]]
        here = [broker.here(word.replace("$$", "$")).replace("/opt/kafka/bin/", f"{kafka_tools}/") for word in words]
        subprocess.run(here, check=True, timeout=60)
    topics = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.ports[0]}"}).list_topics(timeout=20).topics
    made = {name: len(topic.partitions) for name, topic in topics.items() if not name.startswith("__")}
    assert made == {"images": 6, "images.enriched": 6, "images.dead-letters": 1, "images.skipped": 1}


def test_clients_outside_are_sent_back_to_the_address_outside(broker: ComposedKafka) -> None:
    outside = broker.ports[2]
    brokers = AdminClient({"bootstrap.servers": f"127.0.0.1:{outside}"}).list_topics(timeout=20).brokers
    assert [f"{each.host}:{each.port}" for each in brokers.values()] == [f"127.0.0.1:{outside}"]
