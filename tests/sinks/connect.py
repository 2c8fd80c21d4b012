"""Kafka Connect as a server of tests."""

import json
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tagstream_testing.local import programs
from tagstream_testing.local.apache_kafka import QUICK_START, ApacheKafka
from tagstream_testing.local.server import Server
from tests.sinks.jars import class_path


class KafkaConnect(Server):
    """One worker of Kafka Connect with its connectors.

    Args:
        connectors: the settings of each, among them its `name`.
    """

    name: ClassVar[str] = "Kafka Connect"
    ready_within_s: ClassVar[float] = 240.0

    def __init__(self, folder: Path, kafka: ApacheKafka, connectors: Sequence[Mapping[str, str]]) -> None:
        super().__init__(folder)
        self._kafka, self._connectors = kafka, connectors

    def prepare(self) -> None:
        text = "org.apache.kafka.connect.storage.StringConverter"
        worker = {
            "bootstrap.servers": self._kafka.servers,
            "listeners": f"http://127.0.0.1:{self.ports[0]}",
            "key.converter": text,
            "value.converter": text,
            "config.providers": "env",
            "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
            "offset.storage.file.filename": str(self.folder / "offsets"),
        }
        for settings in ({"name": "worker", **worker}, *self._connectors):
            lines = "".join(f"{key}={value}\n" for key, value in settings.items())
            (self.folder / f"{settings['name']}.properties").write_text(lines)

    def command(self) -> Sequence[str]:
        options = [*QUICK_START, "-Xmx512m", "-XX:-UsePerfData", f"-Djava.io.tmpdir={self.folder}"]
        program = ["-cp", class_path("connect"), "org.apache.kafka.connect.cli.ConnectStandalone"]
        files = [f"{name}.properties" for name in ("worker", *(each["name"] for each in self._connectors))]
        return [programs.java(), *options, *program, *files]

    def is_ready(self) -> bool:
        return all(self._states(each["name"]) == ["RUNNING", "RUNNING"] for each in self._connectors)

    def failed(self) -> list[str]:
        return [each["name"] for each in self._connectors if "FAILED" in self._states(each["name"])]

    def _states(self, connector: str) -> list[str]:
        status = self._get(f"/connectors/{connector}/status")
        return [each["state"] for each in (status["connector"], *status["tasks"])]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[0]}{path}", timeout=10) as answer:
            return json.load(answer)
