"""Fixtures: real servers, each started at a run's first request; and abilities of the machine."""

import os

# One thread a process, here and in started processes: on a busy machine threads that wait for each other take ten times
# as long. Set before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import logging
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from scripts.run_tests import LONGEST, WITHOUT_SERVERS
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.postgresql import PostgreSQL
from tagstream_testing.local.scratch import Scratch
from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.local.server import CannotStart
from tagstream_testing.local.valkey import Valkey
from tests.support.missing import skip_or_fail
from tests.support.shared_servers import AskedServers, OwnedServers, Servers, ServerT, make

# A shell's background process ignores Ctrl-C, and one under nohup a hang-up: so would all processes of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# jsonschema would read a grammar of IRIs for a second, which no test asks it for: to it, this is not installed.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

# A busy machine is no finding: by default an example that takes 0.2 s is one, and so are ten that take a second.
settings.register_profile(
    "unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25
)
settings.load_profile("unhurried")
# Four times the examples: for `make prove`.
settings.register_profile("proof", settings(), max_examples=100)

_SERVER_FIXTURES = {"shared_servers", "stack", "scratch"}


class Startable(Protocol):
    def start(self) -> object: ...

    def kill(self) -> None: ...


Unique = Callable[[str], str]
"""Makes names that no other test uses."""

StartableT = TypeVar("StartableT", bound=Startable)
T = TypeVar("T")


@dataclass(frozen=True)
class Stack:
    kafka: ApacheKafka
    s3: SeaweedFS
    valkey: Valkey


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Imported modules stay: a garbage collection of them takes longer than their import."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        _let_loggers_propagate()


def _let_loggers_propagate() -> None:
    """torch has dozens of loggers without propagation, and pytest gives its handlers to each, six times a test."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("torch") and isinstance(logger, logging.Logger):
            logger.propagate = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that uses a server carries the marker `servers` without saying so; the longest files come first."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
    for item in items:
        if _SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("servers")
            if item.nodeid.startswith(WITHOUT_SERVERS):
                raise pytest.UsageError(f"`make test` has no servers for {item.nodeid}: see WITHOUT_SERVERS")


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
    with Scratch() as folder:
        yield folder


_ADDRESS = "servers"
_LISTENS = pytest.StashKey[str]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of xdist where it may ask for them."""
    stash = node.config.stash
    if _LISTENS not in stash:
        owned = OwnedServers()
        stash[_LISTENS] = owned.listen()
        node.config.add_cleanup(owned.close)
    node.workerinput[_ADDRESS] = stash[_LISTENS]


@pytest.fixture(scope="session")
def shared_servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    if hasattr(request.config, "workerinput"):
        yield AskedServers(request.config.workerinput[_ADDRESS])
        return
    owned = OwnedServers()
    try:
        yield owned
    finally:
        owned.close()


@pytest.fixture(scope="session")
def kafka(shared_servers: Servers) -> ApacheKafka:
    """Apache Kafka; topics are not made by themselves."""
    return _up_or_skip(lambda: shared_servers.up(ApacheKafka))


@pytest.fixture(scope="session")
def s3(shared_servers: Servers) -> SeaweedFS:
    """An S3 server that refuses wrong keys."""
    return _up_or_skip(lambda: shared_servers.up(SeaweedFS))


@pytest.fixture(scope="session")
def valkey(shared_servers: Servers) -> Valkey:
    """A Redis-compatible server; its keys stay from test to test."""
    return _up_or_skip(lambda: shared_servers.up(Valkey))


@pytest.fixture(scope="session")
def postgresql(shared_servers: Servers) -> PostgreSQL:
    """PostgreSQL with pgvector; each test makes tables in a schema of its own."""
    return _up_or_skip(lambda: shared_servers.up(PostgreSQL))


@pytest.fixture(scope="session")
def stack(kafka: ApacheKafka, s3: SeaweedFS, valkey: Valkey) -> Stack:
    return Stack(kafka, s3, valkey)


@pytest.fixture(scope="module")
def own_kafka(scratch: Scratch) -> Iterator[ApacheKafka]:
    yield from own(ApacheKafka, scratch)


@pytest.fixture(scope="module")
def own_s3(scratch: Scratch) -> Iterator[SeaweedFS]:
    yield from own(SeaweedFS, scratch)


@pytest.fixture(scope="module")
def own_valkey(scratch: Scratch) -> Iterator[Valkey]:
    yield from own(Valkey, scratch)


@pytest.fixture(scope="module")
def own_postgresql(scratch: Scratch) -> Iterator[PostgreSQL]:
    yield from own(PostgreSQL, scratch)


def own(kind: type[ServerT], scratch: Scratch) -> Iterator[ServerT]:
    yield from up_or_skip(make(kind, scratch, uuid.uuid4().hex))


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
    return unique("bucket")


def up_or_skip(server: StartableT) -> Iterator[StartableT]:
    _up_or_skip(server.start)
    try:
        yield server
    finally:
        server.kill()


def _up_or_skip(start: Callable[[], T]) -> T:
    """What `start` returns. A server that can't be had skips the test, or fails it where CI is set."""
    try:
        return start()
    except CannotStart as error:
        skip_or_fail(f"{error}")
