"""The server of the probes against clients that mean it no good, over real connections on loopback."""

import contextlib
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import BOUNDED_S
from workers.service.http import Answer, PageRequest, ProbeServer

CROWD = 1100


class QuickServer(ProbeServer):
    connections, seconds = 8, 0.5


SERVE = """
import resource, sys
from workers.service.http import Endpoint
from workers.types import Health
from workers.service.http import ProbeServer
from workers.service.logs import start_logging

start_logging("info", "text")
ProbeServer.seconds = 1000
resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}))
well = lambda: Health(True)
reports = dict.fromkeys(("/livez", "/startupz", "/readyz"), well)
endpoint = Endpoint("127.0.0.1", 0, reports, lambda: b"x 1\\n", bytes)
print(endpoint.port, flush=True)
sys.stdin.read()
endpoint.close()
"""


@contextmanager
def worker(log: Path, descriptors: int = 1024) -> Iterator[tuple[int, int]]:
    """A process that serves with the default number of descriptors: its port and process id."""
    code = SERVE.format(descriptors=descriptors)
    with (
        log.open("wb") as said,
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
        ) as it,
    ):
        assert it.stdin is not None
        assert it.stdout is not None
        try:
            yield int(it.stdout.readline()), it.pid
        finally:
            it.stdin.close()
            it.wait(20)


@pytest.fixture(scope="module", autouse=True)
def _room_for_a_crowd() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4 * CROWD:
        pytest.skip(f"this test needs {4 * CROWD} descriptors of its own (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4 * CROWD), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=BOUNDED_S)


def asked(port: int, request: bytes = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n") -> bytes:
    with connect(port) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def statuses(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d+) ", answer)]


def trickle(crowd: list[socket.socket], stop: threading.Event) -> None:
    while not stop.is_set():
        for client in crowd:
            with contextlib.suppress(OSError):
                client.send(b"x")
        stop.wait(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("opening", [b"", b"GET /livez HTTP/1.1\r\nX: "], ids=["silent", "byte by byte"])
def test_a_crowd_that_holds_connections_keeps_no_probe_from_its_answer(opening: bytes, tmp_path: Path) -> None:
    stop = threading.Event()
    with worker(tmp_path / "log") as (port, pid), ExitStack() as crowd:
        clients = [crowd.enter_context(connect(port)) for _ in range(CROWD)]
        for client in clients:
            with contextlib.suppress(OSError):
                client.send(opening)
        trickling = threading.Thread(target=trickle, args=(clients if opening else [], stop))
        trickling.start()
        try:
            for _ in range(10):
                assert statuses(asked(port)) == [200]
            assert len(os.listdir(f"/proc/{pid}/fd")) < 128
        finally:
            stop.set()
            trickling.join()
    assert (tmp_path / "log").stat().st_size < 10_000


@pytest.mark.slow
def test_a_process_without_a_free_descriptor_answers_probes_and_keeps_its_log_small(tmp_path: Path) -> None:
    with worker(tmp_path / "log", descriptors=40) as (port, _), ExitStack() as crowd:
        for _ in range(CROWD // 10):
            crowd.enter_context(connect(port))
        for _ in range(2):
            assert statuses(asked(port)) == [200]
    assert (tmp_path / "log").stat().st_size < 20_000
    assert "Too many open files" in (tmp_path / "log").read_text()


@contextmanager
def serving(answer: Callable[[PageRequest], Answer]) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = QuickServer(listener, answer)
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()


@pytest.fixture
def port() -> Iterator[int]:
    with serving(lambda request: Answer(200, "text/plain", request.path.encode())) as port:
        yield port


@pytest.mark.slow
@pytest.mark.parametrize("opening", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_who_does_not_finish_a_request_in_time_is_dropped(opening: bytes, port: int) -> None:
    assert asked(port, opening) == b""


@pytest.mark.slow
def test_who_does_not_read_the_answer_is_dropped() -> None:
    page = Answer(200, "text/plain", b"x" * 50_000_000)
    with serving(lambda _: page) as port, connect(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        time.sleep(2 * QuickServer.seconds)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while more := client.recv(1_000_000):
                received += len(more)
    assert received < len(page.body)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /livez?verbose=1 HTTP/1.0\n\n", 200),
        (b"HEAD /livez HTTP/1.1\r\n\r\n", 200),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 9\r\n\r\n123456789", 501),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET //elsewhere/%0d%0a HTTP/1.1\r\n\r\n", 200),
        (b"GET /a b HTTP/1.1\r\n\r\n", 400),
    ],
)
def test_the_first_line_of_a_request_decides_the_answer(port: int, request_bytes: bytes, status: int) -> None:
    said = asked(port, request_bytes)
    assert statuses(said) == [status]
    assert not re.search(rb"(?i)python|\r\nlocation:", said)


@pytest.mark.parametrize("request_bytes", [b"\x16\x03\x01\x02\x00\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_another_protocol_gets_no_page(port: int, request_bytes: bytes) -> None:
    assert 200 not in statuses(asked(port, request_bytes))


def test_an_answer_to_head_has_no_body(port: int) -> None:
    head, _, body = asked(port, b"HEAD /livez HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")
    assert b"Content-Length: 6" in head
    assert body == b""


def test_a_bug_behind_one_path_leaves_the_others_answered(caplog: pytest.LogCaptureFixture) -> None:
    def answer(request: PageRequest) -> Answer:
        if request.path == "/bad":
            raise ZeroDivisionError
        return Answer(200, "text/plain", b"")

    with serving(answer) as port:
        assert statuses(asked(port, b"GET /bad HTTP/1.1\r\n\r\n")) == [500]
        assert statuses(asked(port)) == [200]
    assert "/bad" in caplog.text


def test_clients_that_go_in_the_middle_cost_nothing(port: int) -> None:
    for _ in range(100):  # fewer than may wait to be accepted
        with connect(port) as client:
            client.send(b"GET /livez HTTP/1.1\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
    assert statuses(asked(port)) == [200]
