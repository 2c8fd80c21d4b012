"""A worker on real servers while its port is held by more clients than it may have open files."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from schemas.enriched_image import EnrichedImage
from tests.fixtures import Stack
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker

pytestmark = pytest.mark.timeout(240)

CROWD = 1100
OPEN_FILES = 1024
"""What a process may have open by default; more of them in the crowd."""


@contextmanager
def crowd(process: WorkerProcess) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4 * CROWD:
        pytest.skip(f"this test needs {4 * CROWD} descriptors of its own (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4 * CROWD), hard))
    try:
        with ExitStack() as clients:
            address = ("127.0.0.1", urlsplit(process.url).port or 0)
            for _ in range(CROWD):
                clients.enter_context(socket.create_connection(address, timeout=10))
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_crowd_on_the_port_of_the_probes_stops_no_work(
    stack: Stack, unique: Callable[[str], str], tmp_path: Path
) -> None:
    site = Site(stack, unique("crowd"))
    for number in range(20):
        site.upload(f"{number}.jpg", photo(number))
    with worker(site, "a", tmp_path) as process:
        assert process.pid is not None
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
        with crowd(process):
            site.send([(site.own(f"{number}.jpg"), ()) for number in range(20)])
            eventually(lambda: len(site.outcomes()) == 20, 60, process.said)
            assert process.get("/livez")[0] == process.get("/readyz")[0] == 200
            assert process.metric("tagstream_cache_errors_total") == 0
        assert process.log.stat().st_size < 100_000
    assert all(isinstance(output, EnrichedImage) for output in site.outputs())
    assert site.outcomes() == site.inputs()


def test_no_answer_of_the_port_tells_a_key_a_caption_or_a_secret(
    stack: Stack, unique: Callable[[str], str], tmp_path: Path
) -> None:
    site = Site(stack, unique("port"))
    keys = [f"unmistakable-{number}.jpg" for number in range(4)]
    for number, key in enumerate(keys):
        site.upload(key, photo(number) if number else b"no image at all")
    with worker(site, "a", tmp_path) as process:
        site.send([(site.own(key), ()) for key in keys])
        eventually(lambda: len(site.outcomes()) == 4, 60, process.said)
        told = "".join(process.get(path)[1] for path in ("/livez", "/startupz", "/readyz", "/metrics"))
    captions = [
        output.caption.text for output in site.outputs() if isinstance(output, EnrichedImage) and output.caption
    ]
    assert site.images in told, "it is the worker's page"
    for private in ("unmistakable", stack.s3.secret_key, *captions):
        assert private not in told
