"""Kafka Connect, from jars that are fetched once and checked by their sha256."""

import fcntl
import hashlib
import json
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from tagstream_testing.local import programs
from tagstream_testing.local.apache_kafka import QUICK_START, ApacheKafka
from tagstream_testing.local.server import CannotStart, Server

_REPOSITORY = "https://repo1.maven.org/maven2"
_LARGEST_BYTES = 50_000_000
_JARS = Path(__file__).with_name("jars.sha256")


def class_path() -> str:
    """The class path of Connect with its JDBC sink: 63 MB in the user's cache.

    Raises:
        CannotStart: a jar can't be fetched, or is not the pinned one.
    """
    text = _JARS.read_text()
    jars = programs.cache_folder() / f"connect-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    jars.parent.mkdir(parents=True, exist_ok=True)
    with (jars.parent / "connect.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.is_dir():
            with (
                tempfile.TemporaryDirectory(prefix="connect-", dir=jars.parent) as folder,
                ThreadPoolExecutor(4) as pool,
            ):
                ready = Path(folder, "jars")
                ready.mkdir()
                lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
                list(pool.map(lambda line: _fetch(*line, ready), lines))
                ready.rename(jars)
    return f"{jars}/*"


def _fetch(line: str, folder: Path) -> None:
    digest, path = line.split()
    try:
        with urllib.request.urlopen(f"{_REPOSITORY}/{path}", timeout=60) as answer:
            content = answer.read(_LARGEST_BYTES)
    except OSError as error:
        raise CannotStart(f"{_REPOSITORY}/{path} can't be fetched: {error}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise CannotStart(f"{_REPOSITORY}/{path} is not the file of {_JARS.name}")
    Path(folder, Path(path).name).write_bytes(content)


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
            "offset.storage.file.filename": str(self.folder / "offsets"),
        }
        for settings in ({"name": "worker", **worker}, *self._connectors):
            lines = "".join(f"{key}={value}\n" for key, value in settings.items())
            (self.folder / f"{settings['name']}.properties").write_text(lines)

    def command(self) -> Sequence[str]:
        options = [*QUICK_START, "-Xmx512m", "-XX:-UsePerfData", f"-Djava.io.tmpdir={self.folder}", "-cp", class_path()]
        files = [f"{name}.properties" for name in ("worker", *(each["name"] for each in self._connectors))]
        return [programs.java(), *options, "org.apache.kafka.connect.cli.ConnectStandalone", *files]

    def is_ready(self) -> bool:
        return all(self._states(each["name"]) == ["RUNNING", "RUNNING"] for each in self._connectors)

    def failed(self) -> list[str]:
        """The connectors with a task that has failed."""
        return [each["name"] for each in self._connectors if "FAILED" in self._states(each["name"])]

    def _states(self, connector: str) -> list[str]:
        """Those of the connector and of its tasks."""
        status = self._get(f"/connectors/{connector}/status")
        return [each["state"] for each in (status["connector"], *status["tasks"])]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[0]}{path}", timeout=10) as answer:
            return json.load(answer)
