"""What tests ask for by name: the real servers, each started once, when first asked for; and what a machine allows."""

import os

# One thread a process, here and in what tests start: on a busy machine threads that wait for each other take ten times
# as long. Before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import logging
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from tagstream_testing.local.apache_kafka import ApacheKafka, learn_first_start
from tagstream_testing.local.postgresql import PostgreSQL
from tagstream_testing.local.scratch import Scratch
from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.local.server import CannotStart
from tagstream_testing.local.valkey import Valkey

# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# jsonschema would read a grammar of IRIs for a second, which no test asks it for: to it, this is not installed.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

# A busy machine is no finding: by default an example that takes 0.2 s is one, and so are ten that take a second.
settings.register_profile(
    "unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25
)
settings.load_profile("unhurried")
# Four times the examples: for `make prove`.
settings.register_profile("proof", settings(), max_examples=100)
# For `make unit`, which names it.
settings.register_profile("quick", settings())

_SERVER_FIXTURES = {"kafka", "s3", "valkey", "stack", "postgresql"}

_COMPUTING = ("training/tests/unit/", "tests/unit/test_patterns.py")
"""Tests that take the longest of those that wait for nothing: they come first, beside those that wait for servers, and
none of them is left alone at the end."""


class Startable(Protocol):
    """One server, or several that belong together."""

    def start(self) -> object: ...

    def kill(self) -> None: ...


Unique = Callable[[str], str]
"""Makes names that no other test uses."""

StartableT = TypeVar("StartableT", bound=Startable)


@dataclass(frozen=True)
class Stack:
    """The three servers of this test session. A test that breaks one repairs it before it ends."""

    kafka: ApacheKafka
    s3: SeaweedFS
    valkey: Valkey


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported stays: to look through it for garbage takes longer than to import it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        _let_loggers_propagate()


def _let_loggers_propagate() -> None:
    """torch has dozens that do not, and to each pytest gives its handlers anew, six times a test."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("torch") and isinstance(logger, logging.Logger):
            logger.propagate = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that uses a server carries the marker `servers` without saying so."""
    items.sort(key=lambda item: not item.nodeid.startswith(_COMPUTING))
    for item in items:
        if _SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("servers")


@pytest.fixture(autouse=True, scope="module")
def blamed_for_what_it_leaves() -> Iterator[None]:
    """A file that leaves open sockets or files to the garbage collector fails itself, not one that runs later.

    What outlives a file (modules, the session's servers) is frozen, or each collection would go through all of it.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def pillow_as_it_was() -> Iterator[None]:
    """A test that decodes sets Pillow's guards for the whole process, and another file has larger images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
        yield


@pytest.fixture(scope="session")
def scratch() -> Iterator[Scratch]:
    """The temporary folder of the session's servers."""
    with Scratch() as folder:
        yield folder


@pytest.fixture(scope="session")
def kafka(scratch: Scratch) -> Iterator[ApacheKafka]:
    """Apache Kafka; topics are not made by themselves."""
    with suppress(CannotStart):  # which says itself why
        learn_first_start()
    yield from up_or_skip(ApacheKafka(scratch.path / "kafka"))


@pytest.fixture(scope="session")
def s3(scratch: Scratch) -> Iterator[SeaweedFS]:
    """An S3 server that refuses wrong keys."""
    yield from up_or_skip(SeaweedFS(scratch.path / "s3", scratch.will_litter))


@pytest.fixture(scope="session")
def valkey(scratch: Scratch) -> Iterator[Valkey]:
    """A Redis-compatible server; its keys stay from test to test."""
    yield from up_or_skip(Valkey(scratch.path / "valkey"))


@pytest.fixture(scope="session")
def postgresql(scratch: Scratch) -> Iterator[PostgreSQL]:
    """PostgreSQL with pgvector; each test makes tables in a schema of its own."""
    yield from up_or_skip(PostgreSQL(scratch.path / "postgresql"))


@pytest.fixture(scope="session")
def stack(kafka: ApacheKafka, s3: SeaweedFS, valkey: Valkey) -> Stack:
    """All three."""
    return Stack(kafka, s3, valkey)


@pytest.fixture
def may_mount() -> None:
    """For tests that give a process mounts of its own; skips where the user may not."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a mount name space, which `unshare --mount` is to give a process")


@pytest.fixture
def unique() -> Unique:
    """Makes names that no other test uses: `unique("images")` → "images-1f0c…"; fit for topics and buckets."""
    return lambda stem: f"{stem}-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def topic_name(unique: Unique) -> str:
    """A topic's name of this test alone; the topic is not made."""
    return unique("topic")


@pytest.fixture
def bucket_name(unique: Unique) -> str:
    """A bucket's name of this test alone; the bucket is not made."""
    return unique("bucket")


def up_or_skip(server: StartableT) -> Iterator[StartableT]:
    """The server, up. One that can't be had skips here and fails where CI is set, so that nothing goes untested."""
    try:
        server.start()
    except CannotStart as error:
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(f"{error}", pytrace=False)
        pytest.skip(f"{error}")
    try:
        yield server
    finally:
        server.kill()
