"""The demo's photographs, and the notifications that tell of them."""

from __future__ import annotations

import json
import mimetypes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from workers.errors import Misconfigured
from workers.types import Message

_SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

# What scikit-image and scikit-learn ship for their own examples, as far as it shows ordinary things: a tagger of
# everyday words has nothing to say about retinas, galaxies and textures.
_IN_WHEELS = {
    "scikit-image": (
        "chelsea.png",
        "coffee.png",
        "rocket.jpg",
        "motorcycle_left.png",
        "camera.png",
        "astronaut.png",
        "motorcycle_right.png",
        "coins.png",
    ),
    "scikit-learn": ("flower.jpg", "china.jpg"),
}


class NoPhotographs(Misconfigured):
    """No photograph was found to show; the text says where was looked."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """An image file and the key that it gets in the bucket."""

    key: str
    path: Path

    @property
    def content_type(self) -> str:
        return mimetypes.guess_type(self.path.name)[0] or "application/octet-stream"

    def read(self) -> bytes:
        return self.path.read_bytes()


def photographs(folder: Path | None) -> Sequence[Photograph]:
    """The images below `folder`, by name, or those in the wheels.

    Raises:
        NoPhotographs: no such folder, or no image in it; or the wheels are not installed.
    """
    found = _in_wheels() if folder is None else _below(folder)
    if found:
        return found
    if folder is None:
        raise NoPhotographs(
            "The demo's photographs are in scikit-image and scikit-learn, which are not installed. "
            "Run `make install` in a checkout of tagstream."
        )
    raise NoPhotographs(f"There is no image in {folder} ({', '.join(sorted(_SUFFIXES))}).")


def _in_wheels() -> list[Photograph]:
    return [
        Photograph(f"{distribution}/{path.name}", path)
        for distribution, names in _IN_WHEELS.items()
        for path in sorted(_files(distribution, names), key=lambda path: names.index(path.name))
    ]


def _files(distribution: str, names: Sequence[str]) -> list[Path]:
    """Found by the wheel's own list of files: importing the package would take a second, and would download more."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return []
    located = [Path(str(file.locate())) for file in files if file.name in names and "data" in "/".join(file.parts[:-1])]
    return [path for path in located if path.is_file()]


def _below(folder: Path) -> list[Photograph]:
    if not folder.is_dir():
        raise NoPhotographs(f"{folder} is no folder.")
    files = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES and path.is_file())
    return [Photograph(path.relative_to(folder).as_posix(), path) for path in files]


def created(topic: str, bucket: str, key: str, *, size: int, etag: str) -> Message:
    """An object was put."""
    return _message(topic, bucket, key, "s3:ObjectCreated:Put", {"size": size, "eTag": etag})


def removed(topic: str, bucket: str, key: str) -> Message:
    """An object was deleted."""
    return _message(topic, bucket, key, "s3:ObjectRemoved:Delete", {})


def _message(topic: str, bucket: str, key: str, name: str, facts: dict[str, Any]) -> Message:
    now = time.time_ns()
    record = {
        "eventVersion": "2.0",
        "eventSource": "tagstream:demo",
        "awsRegion": "",
        "eventTime": datetime.fromtimestamp(now / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "eventName": name,
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
            # Later events of an object have greater sequencers; the clock's nanoseconds are as good as any.
            "object": {"key": quote_plus(key), **facts, "sequencer": f"{now:016X}"},
        },
    }
    document = {"EventName": name, "Key": f"{bucket}/{key}", "Records": [record]}
    return Message(topic, f"{bucket}/{key}".encode(), json.dumps(document).encode(), ())
