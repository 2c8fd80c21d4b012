"""Jars from Maven Central, pinned by their sha256 and kept in the user's cache."""

import fcntl
import hashlib
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tagstream_testing.local.programs import cache_folder
from tagstream_testing.local.server import CannotStart

_REPOSITORY = "https://repo1.maven.org/maven2"
_LARGEST_BYTES = 50_000_000


def class_path(name: str) -> str:
    """The class path of the jars that `NAME.sha256` lists, each as sha256 and path.

    Raises:
        CannotStart: a jar can't be fetched, or is not the pinned one.
    """
    pins = Path(__file__).with_name(f"{name}.sha256").read_text()
    jars = cache_folder() / f"{name}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"
    jars.parent.mkdir(parents=True, exist_ok=True)
    with (jars.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.is_dir():
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=jars.parent) as folder:
                ready = Path(folder, "jars")
                ready.mkdir()
                with ThreadPoolExecutor(4) as pool:
                    lines = [line for line in pins.splitlines() if not line.startswith("#")]
                    list(pool.map(lambda line: _fetch(line, ready), lines))
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
        raise CannotStart(f"{_REPOSITORY}/{path} has another sha256 than the pinned one")
    Path(folder, Path(path).name).write_bytes(content)
