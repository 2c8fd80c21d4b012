"""What tests of programs in Java and in a shell need: a JDK that compiles, and Kafka's own command-line tools."""

import hashlib
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tagstream_testing.local import programs

_TOOLS = f"kafka-tools-{programs.KAFKA_VERSION}.jar"
_TOOLS_URL = f"https://repo1.maven.org/maven2/org/apache/kafka/kafka-tools/{programs.KAFKA_VERSION}/{_TOOLS}"
_TOOLS_SHA256 = "4eb9a7fbfd63badfd8d1a677aa2d54b47b2b2d442ff7d68fd223972afea1954c"
_CONSOLE = {
    "kafka-console-producer.sh": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-console-consumer.sh": "org.apache.kafka.tools.consumer.ConsoleConsumer",
}
_SMALL = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")


def java_program(source: Path) -> list[str]:
    """The command that compiles and runs one file of Java, with Kafka's jars; skips without a JDK."""
    home = os.environ.get("JAVA_HOME")
    for candidate in (f"{home}/bin/java" if home else None, shutil.which("java")):
        if candidate is not None and _compiles(candidate):
            return [candidate, *_SMALL, "-cp", programs.kafka_class_path(), str(source)]
    pytest.skip("no JDK of 17 or newer on the PATH or in JAVA_HOME: a runtime alone compiles nothing")


def console_tools(folder: Path) -> Path:
    """A folder with Kafka's console producer and consumer, as in `bin/` of any Kafka; skips without."""
    if all(shutil.which(name) for name in _CONSOLE):
        return Path(str(shutil.which("kafka-console-producer.sh"))).parent
    class_path = f"{programs.kafka_class_path()}:{_tools_jar()}"
    for name, main in _CONSOLE.items():
        script = folder / name
        command = " ".join((programs.java(), *_SMALL, f"-cp '{class_path}'", main))
        script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        script.chmod(0o755)
    return folder


def _compiles(java: str) -> bool:
    try:
        told = subprocess.run([java, "--list-modules"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    major = next((line.partition("@")[2] for line in told.splitlines() if line.startswith("jdk.compiler@")), "0")
    return int(major.partition(".")[0]) >= 17


def _tools_jar() -> Path:
    jar = Path(programs.kafka_class_path()).parent.parent / _TOOLS
    if not jar.exists():
        try:
            with urllib.request.urlopen(_TOOLS_URL, timeout=20) as answer:
                content = answer.read(2_000_000)
        except OSError as error:
            pytest.skip(f"no console tools of Kafka on the PATH, and {_TOOLS_URL} can't be fetched: {error}")
        if hashlib.sha256(content).hexdigest() != _TOOLS_SHA256:
            pytest.skip(f"what comes from {_TOOLS_URL} is not the file that is pinned")
        fresh = jar.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(content)
        fresh.rename(jar)
    return jar
