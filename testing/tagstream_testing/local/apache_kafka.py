"""The real Apache Kafka: one node, broker and controller in one process (KRaft)."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tagstream_testing.local import programs
from tagstream_testing.local.server import CannotStart, Server, spawn_tied

_CLUSTER_ID = "dGFnc3RyZWFtLWxvY2FsMQ"
QUICK_START = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Options of a JVM that is up soon and small, and never compiles its code as far as it can."""

AS_DEPLOYED = (
    *("-Xms1g", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
    *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"),
)
"""Options of Kafka's own start scripts (kafka-server-start.sh and kafka-run-class.sh of 4.x)."""

_JVM = (
    # A file in /tmp that outlives a SIGKILL.
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
)

_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    # A missing topic must show itself as an error, as it does where topics are made by people.
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Else an idle node writes a record about nothing twice a second, which is half of all it does.
    "metadata.max.idle.interval.ms": "0",
    # Tests join and leave groups, and let transactions time out, within fractions of a second.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "100",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
}


class ApacheKafka(Server):
    """A Kafka node with a port for clients and one for itself.

    `servers` names the clients' port.

    Args:
        folder: its data, configuration and log.
        properties: broker settings by their Kafka names, on top of those that suit a test. A short
            `broker.session.timeout.ms` makes a restart after a SIGKILL quick (3 s instead of 11 s), but a node that is
            frozen or starved for longer than it is fenced and may lose transaction markers: leave it out then.
        jvm: options of its Java machine, beside those that any has here.
    """

    name: ClassVar[str] = "Apache Kafka"
    port_count: ClassVar[int] = 2

    def __init__(
        self, folder: Path, properties: Mapping[str, str] | None = None, *, jvm: Sequence[str] = QUICK_START
    ) -> None:
        super().__init__(folder)
        self._options = tuple(jvm)
        self._extra = dict(properties or {})
        self._java = ""
        self._classes: Path | None = None

    @property
    def servers(self) -> str:
        """host:port, as TAGSTREAM_KAFKA_SERVERS takes it."""
        return f"127.0.0.1:{self.ports[0]}"

    def prepare(self) -> None:
        self._java = programs.java()
        self._write_config()
        first = _first_start(self._java)
        self._classes = first / _CLASSES
        if (self.folder / "data" / "meta.properties").exists():
            return
        if first.is_dir() and self._properties()["node.id"] == _PROPERTIES["node.id"]:
            shutil.copytree(first / "data", self.folder / "data")
        else:
            self._format()

    def command(self) -> Sequence[str]:
        known = [f"-XX:AOTCache={self._classes}"] if self._classes and self._classes.exists() else []
        return [*self._jvm((*self._options, *known)), "kafka.Kafka", str(self._config)]

    def environment(self) -> Mapping[str, str]:
        return _without_java_options()

    def is_ready(self) -> bool:
        """Whether it lists itself as a broker: by then its listener is open and the controller has let it in."""
        with socket.create_connection(("127.0.0.1", self.ports[0]), timeout=2) as connection:
            return _broker_count(connection) > 0

    @property
    def _config(self) -> Path:
        return self.folder / "server.properties"

    def _write_config(self) -> None:
        self._config.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))

    def _jvm(self, options: Sequence[str]) -> list[str]:
        temporary = self.folder / "tmp"  # native libraries are unpacked there
        temporary.mkdir(exist_ok=True)
        return [self._java, *options, *_JVM, f"-Djava.io.tmpdir={temporary}", "-cp", programs.kafka_class_path()]

    def _properties(self) -> dict[str, str]:
        clients, controller = (f"127.0.0.1:{port}" for port in self.ports[:2])
        return (
            _PROPERTIES
            | {
                "listeners": f"PLAINTEXT://{clients},CONTROLLER://{controller}",
                "advertised.listeners": f"PLAINTEXT://{clients}",
                "controller.quorum.voters": f"1@{controller}",
                "log.dirs": str(self.folder / "data"),
            }
            | self._extra
        )

    def _format(self) -> None:
        tool = [
            *self._jvm(QUICK_START),
            "kafka.tools.StorageTool",
            "format",
            "-t",
            _CLUSTER_ID,
            "-c",
            str(self._config),
        ]
        self._process = spawn_tied(tool, log=self.log, env=_without_java_options())
        if self._process.wait(self.ready_within_s) != 0:
            raise CannotStart(self.complaint("could not format its folder"))


_CLASSES = "classes.aot"


class _First(ApacheKafka):
    """A broker that is started once: its Java machine writes down the classes that it loads.

    Java does so from version 24 on; an older one passes over the options.
    """

    stops_within_s: ClassVar[float] = 60.0

    def __init__(self, folder: Path) -> None:
        options = ("-XX:+IgnoreUnrecognizedVMOptions", f"-XX:AOTCacheOutput={folder.parent / _CLASSES}")
        super().__init__(folder, jvm=(*QUICK_START, *options))

    def prepare(self) -> None:
        self._java = programs.java()
        self._write_config()
        self._format()
        shutil.copytree(self.folder / "data", self.folder.parent / "data")


def learn_first_start() -> None:
    """Start a broker once and keep its first files: later starts take 2.0 s of processor time instead of 4.1 s.

    It takes 12 s itself, so it is for tests, which start some thirty. Later brokers of this user use its formatted data
    and the classes that its Java dumped.
    """
    made = _first_start(programs.java())
    with (made.parent / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.is_dir():
            return
        with tempfile.TemporaryDirectory(prefix="kafka-", dir=made.parent) as folder:
            ready = Path(folder) / "ready"
            ready.mkdir()
            with _First(ready / "broker") as broker:
                broker.stop()
            shutil.rmtree(ready / "broker")
            ready.rename(made)


def _first_start(java: str) -> Path:
    """The folder for the files of a first start with this Java."""
    jars = Path(programs.kafka_class_path()).parent
    release = Path(java).parents[1] / "release"
    which = release.read_bytes() if release.is_file() else java.encode()
    return jars.with_name(f"{jars.name}-first-start-{hashlib.sha256(which).hexdigest()[:12]}")


def _without_java_options() -> dict[str, str]:
    """Our environment without the variables that change a JVM or Kafka."""
    ours = {"CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"}
    return {name: value for name, value in os.environ.items() if name not in ours}


def _broker_count(connection: socket.socket) -> int:
    """How many brokers a Metadata response (version 1, about no topic) names.

    Spoken by hand: it is four lines of bytes, and a client library would wait and retry behind our back.
    """
    header = struct.pack(">hhi", 3, 1, 1) + struct.pack(">h", 5) + b"ready"
    body = struct.pack(">i", 0)
    connection.sendall(struct.pack(">i", len(header + body)) + header + body)
    answer = _read(connection, 12)
    return int(struct.unpack(">iii", answer)[2])


def _read(connection: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        part = connection.recv(size - len(read))
        if not part:
            raise ConnectionResetError("the broker closed the connection")
        read += part
    return read
