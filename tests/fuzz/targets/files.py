"""Files that a worker finds: its journal, bundles, and the environment, which is written by hand as often."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from safetensors.numpy import save

from tests.fuzz.fuzzer import Bounds, Target, sentence
from tests.fuzz.mutators import Parts
from tests.unit.models.small_dual import SIZES, tokenizer
from workers.environment import FIELDS, is_secret, read, secret_values
from workers.errors import Misconfigured
from workers.models.bundle import LABELS, MANIFEST, WEIGHTS, Bundle
from workers.models.dual import text as text_tower
from workers.models.dual.config import KINDS
from workers.models.labels import read_examples, read_label_file
from workers.models.manifest import GOLDEN, PARENTS, Manifest, digest_of
from workers.pipeline.journal import Journal
from workers.settings import PREFIX, Settings
from workers.types import Coordinates, Partition, Transform

SECRET = "MARKED-SECRET"


_MEMORY = Path("/dev/shm")
"""Where files cost no disk."""


class Folder:
    """A temporary folder, made at its first use."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def fresh(self) -> Path:
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix="tagstream-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None))
        inner = self._path / "inner"
        shutil.rmtree(inner, ignore_errors=True)
        inner.mkdir()
        return inner

    def remove(self) -> None:
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = None


_folder = Folder()


def journals() -> Iterator[Parts]:
    lines = [f"{mark} images {number} {number * 7} 0\n" for number, mark in enumerate("+!#?=-+!#")]
    yield ("".join(lines).encode(),)
    yield (b"+ images 0 1 0\n- images 0 1 0\n! images 0 2 0\n# images 0 2 0",)


def journalled(parts: Parts) -> str:
    """The next worker starts with any file; from it, it learns coordinates of images, each once."""
    path = _folder.fresh() / "journal"
    path.write_bytes(parts[0])
    try:
        journal = Journal(path)
    except Misconfigured as error:
        sentence(error)
        return "refused"
    suspects, poison = journal.suspects, journal.poison
    assert not suspects & poison
    for image in suspects | poison:
        assert image.topic
        assert min(image.partition, image.offset, image.index) >= 0
    assert path.stat().st_size <= len(parts[0]) + 200, "a file that grows with every start"
    mine = Coordinates("fuzz", 0, 1, 0)
    journal.enter(mine)
    journal.leave(mine)
    journal.begins(Partition("images", 0), 2**62)
    journal.close()
    again = Journal(path)
    assert not again.suspects, "a clean exit suspects no image"
    assert again.poison <= poison
    again.close()
    return f"{min(3, len(suspects))} suspects or more, {min(3, len(poison))} poison or more"


def bundles() -> Iterator[Parts]:
    """The manifest, labels, labels in another language, golden answers, weights, and the labels' parents."""
    manifest = {
        "format": "tagstream-bundle/1", "kind": "compact", "name": "small",
        "provenance": {"source": "here", "sha256": "0" * 64, "licence": "MIT", "random": True},
        "transform": asdict(Transform(8)), "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0], "labels": 3,
        "languages": ["zh"], "thresholds": [0.5, 0.5, 0.25], "profiles": {"paper": 0.75}, "floor": 0.01,
        "architecture": {"depth": 2, "widths": [8, 16]}, "options": {"beams": 3},
    }  # fmt: skip
    golden = save(
        {"pixels": np.zeros((2, 8, 8, 3), np.uint8), "outputs": np.zeros((2, 3), np.float32)},
        {"guides": '["a", "b"]', "captions": '["c", "d"]'},
    )
    weights = save({"w": np.zeros((2, 2), np.float32)})
    for document in (manifest, {**manifest, "thresholds": 0.5}, {**manifest, "files": {"../x": {"bytes": 1}}}):
        lists = b"red\ngreen\nblue\n", b"hong\nlv\nlan\n"
        yield (json.dumps(document).encode(), *lists, golden, weights, b'[["warm","colour"],[],["colour"]]')


_FILES = (LABELS, "tags.zh.txt", GOLDEN, WEIGHTS, PARENTS)


def opened(parts: Parts) -> str:
    """A bundle opens and is read whole, or is refused with a sentence; no file outside its folder is read."""
    folder = _folder.fresh() / "bundle"
    folder.mkdir()
    files = dict(zip(_FILES, parts[1:], strict=False))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / MANIFEST).write_bytes(_sealed(parts[0], files))
    try:
        bundle = Bundle.open(folder)
        for name in bundle.manifest.files:
            assert (folder / name).resolve().parent == folder.resolve(), f"{name} is not in the bundle"
        assert len(bundle.labels) == bundle.manifest.labels
        assert all(len(names) == len(bundle.labels) for names in bundle.translations.values())
        assert all(len(row) == len(bundle.labels) for row in (bundle.thresholds, *bundle.profiles.values()))
        assert len(bundle.parents) in (0, len(bundle.labels))
        golden = bundle.golden
        assert golden is None or golden.pixels.dtype == np.uint8
    except Misconfigured as error:
        sentence(error)
        return "refused"
    return "opened" if golden is None else "opened, with golden answers"


def _sealed(manifest: bytes, files: Mapping[str, bytes]) -> bytes:
    """The manifest with true sizes and digests where it says nothing of files, so that more than those is tried."""
    try:
        document = json.loads(manifest)
    except (ValueError, RecursionError):
        return manifest
    if not isinstance(document, dict) or "digest" in document:
        return manifest
    named = {name: {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} for name, body in files.items()}
    others = document.get("files")
    document["files"] = named | others if isinstance(others, dict) else named
    try:
        document["digest"] = digest_of(Manifest.model_validate(document))
    except ValueError:
        document["digest"] = "0" * 64
    return json.dumps(document).encode()


def tokenizers() -> Iterator[Parts]:
    for kind in KINDS:
        yield (tokenizer(kind), "a dog on a beach <pad> 🐶".encode())


def tokenized(parts: Parts) -> str:
    """Ids in the length of the text tower, or a sentence, whatever becomes of the tokenizer's child."""
    text = b"".join(parts[1:]).decode("utf-8", "replace")
    with patch.object(text_tower, "ANSWER_S", 5.0):
        for kind, config in SIZES.items():
            try:
                ids, _ = text_tower.TokenIds(parts[0], config, Path("tokenizer.json"))([text, ""])
            except Misconfigured:
                continue
            assert ids.shape == (2, config.length)
            return kind
    return "refused"


def label_files() -> Iterator[Parts]:
    head = b'templates = ["{}"]\n[[label]]\nname = "forklift"\n'
    rest = b'descriptions = ["a truck", "x"]\nshare = 0.01\nparents = ["vehicle"]\ntranslations = {de = "Stapler"}\n'
    yield (head + rest, b'image,label,shown\na.png,forklift,1\n"b,c.png",forklift,0\n')


def labels_read(parts: Parts) -> str:
    """Labels have names and sentences, and examples are of them; or there is a sentence."""
    folder = _folder.fresh()
    for name, content in zip(("labels.toml", "told.csv"), parts, strict=False):
        (folder / name).write_bytes(content)
    try:
        file = read_label_file(folder / "labels.toml")
        names = [label.name for label in file.labels]
        assert len(set(names)) == len(names)
        assert all(text.strip() for label in file.labels for text in (label.name, *label.sentences))
        told = read_examples(folder / "told.csv", names)
        assert all(0 <= image < len(told.images) for marks in told.marks.values() for image in marks)
    except Misconfigured as error:
        sentence(error)
        return "refused"
    return "read"


def environments() -> Iterator[Parts]:
    good = {
        "TAGSTREAM_KAFKA_SERVERS": "a:9092,[::1]:9093", "TAGSTREAM_S3_ENDPOINT": "https://s3.example:9000",
        "TAGSTREAM_BUCKETS": "photos,more", "TAGSTREAM_S3_ACCESS_KEY": "me", "TAGSTREAM_S3_SECRET_KEY": SECRET,
        "TAGSTREAM_REDIS_URL": f"rediss://me:{SECRET}@cache:6379/0?ssl_cert_reqs=none",
        "TAGSTREAM_KAFKA_SECURITY_PROTOCOL": "sasl_ssl", "TAGSTREAM_KAFKA_USER": "me",
        "TAGSTREAM_KAFKA_PASSWORD": SECRET, "TAGSTREAM_MAX_OBJECT_BYTES": "20MiB", "TAGSTREAM_HTTP_PORT": "off",
        "TAGSTREAM_CACHE_TTL_S": "1e3", "TAGSTREAM_FORMATS": "jpeg, png", "TAGSTREAM_MAX_BATCH": "10",
        "TAGSTREAM_PORT": "tcp://1.2.3.4:80", "XDG_STATE_HOME": "/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://o:1",
    }  # fmt: skip
    yield tuple(part.encode() for pair in good.items() for part in pair)
    for name in Settings.model_fields:
        yield (f"TAGSTREAM_{name.upper()}".encode(), b"7")
    yield (
        b"TAGSTREAM_S3_SECRET_KEY_FILE",
        b"/nowhere",
        b"TAGSTREAM_KAFKA_SERVER",
        b"a:1",
        b"TAGSTREAM_REDIS_URL",
        b"x",
    )


def configured(parts: Parts) -> str:
    """An environment is read, or refused with sentences that repeat no secret."""
    texts = [part.decode("utf-8", "surrogateescape") for part in parts]
    environment = {name: value for name, value in zip(texts[::2], texts[1::2], strict=False) if _possible(name, value)}
    told = any(SECRET in name + value for name, value in environment.items() if not _may_be_secret(name))
    try:
        settings = read(environment)
    except Misconfigured as error:
        return _refused(error, told)
    assert told or SECRET not in repr(settings), "a secret is shown"
    assert all(SECRET not in secret or secret for secret in secret_values(settings))
    return "read"


def _refused(error: Misconfigured, told: bool) -> str:
    assert str(error)
    assert told or SECRET not in str(error), "a secret in an error"
    return "refused"


def _may_be_secret(name: str) -> bool:
    field = name.removeprefix(PREFIX).lower()
    return field in FIELDS and is_secret(field)


def _possible(name: str, value: str) -> bool:
    """No process can have others in its environment."""
    return bool(name) and "=" not in name and "\0" not in name + value


_ENVIRONMENT = Bounds(seconds=0.5, seconds_per_mib=4.0)
_TORCH = Bounds(seconds=1.0, seconds_per_mib=20.0, mib=64.0)
_close: Callable[[], Any] = _folder.remove

TARGETS = (
    Target("journal", journals, journalled, close=_close),
    Target("bundles", bundles, opened, close=_close),
    Target("tokenizers", tokenizers, tokenized, bounds=_TORCH),
    Target("label files", label_files, labels_read, close=_close),
    Target("settings", environments, configured, bounds=_ENVIRONMENT),
)
