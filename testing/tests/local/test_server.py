"""The life of a child process, shown on a toy server of a few lines."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from tagstream_testing.local.server import CannotStart, Server, spawn_tied
from tests.support.processes import survivors

TOY = """
import socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
while True:
    connection, _ = listener.accept()
    connection.sendall(b"hello")
    connection.close()
"""

PARENT_OF_A_SLEEPER = """
import sys, time
from pathlib import Path
from tagstream_testing.local.server import spawn_tied
child = spawn_tied(["sleep", "60"], log=Path(sys.argv[1]) / "log")
print(child.pid, flush=True)
time.sleep(60)
"""


class Toy(Server):
    name: ClassVar[str] = "Toy"
    ready_within_s: ClassVar[float] = 10.0

    def prepare(self) -> None: ...

    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", TOY, str(self.ports[0])]

    def is_ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.ports[0]), timeout=0.3) as connection:
            return connection.recv(5) == b"hello"


class Silent(Toy):
    ready_within_s: ClassVar[float] = 0.5

    def command(self) -> Sequence[str]:
        return ["sh", "-c", "echo warming up; sleep 60"]


class Crashing(Toy):
    def command(self) -> Sequence[str]:
        return ["sh", "-c", "echo the disk is full; exit 7"]


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    with Toy(tmp_path / "toy") as server:
        yield server


def test_a_server_that_is_stopped_comes_back_on_its_port(toy: Toy) -> None:
    ports, pid = toy.ports, toy.pid
    toy.stop()
    assert not toy.running
    toy.start()
    assert toy.ports == ports
    assert toy.pid != pid
    assert toy.is_ready()


def test_a_killed_server_is_gone_at_once_and_can_come_back(toy: Toy) -> None:
    toy.kill()
    with pytest.raises(OSError, match="refused"):
        toy.is_ready()
    toy.start()
    assert toy.is_ready()


def test_a_frozen_server_hangs_without_closing_and_continues_when_thawed(toy: Toy) -> None:
    toy.freeze()
    assert toy.running
    with pytest.raises(TimeoutError):
        toy.is_ready()
    toy.thaw()
    assert toy.is_ready()


def test_a_frozen_server_can_be_stopped(toy: Toy) -> None:
    toy.freeze()
    toy.stop()
    assert not toy.running


def test_a_server_that_runs_is_not_started_twice(toy: Toy) -> None:
    with pytest.raises(RuntimeError, match="running already"):
        toy.start()


def test_a_retired_server_is_gone_and_does_not_come_back(toy: Toy) -> None:
    toy.retire()
    assert not toy.running
    with pytest.raises(CannotStart, match="given up"):
        toy.start()


def test_a_server_that_ends_while_starting_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"Toy ended with exit code 7 while starting.*\nthe disk is full"):
        Crashing(tmp_path).start()


def test_a_server_that_does_not_answer_in_time_is_an_error_and_leaves_no_process(tmp_path: Path) -> None:
    server = Silent(tmp_path)
    with pytest.raises(CannotStart, match=r"did not answer within 0 s|did not answer within 1 s.*\nwarming up"):
        server.start()
    assert not server.running


def test_a_port_that_was_taken_in_between_is_replaced(tmp_path: Path) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        taken = squatter.getsockname()[1]
        toy = Toy(tmp_path)
        toy.ports = [taken]
        with toy:
            assert toy.ports != [taken]
            assert toy.is_ready()


def test_a_known_port_is_never_replaced(toy: Toy) -> None:
    toy.stop()
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", toy.ports[0]))
        squatter.listen()
        with pytest.raises(CannotStart, match="already in use"):
            toy.start()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_child_outlives_its_parent_however_that_ends(how: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT_OF_A_SLEEPER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(how)
        parent.wait(10)
    assert survivors([child]) == []


def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    children: list[subprocess.Popen[bytes]] = []
    thread = threading.Thread(target=lambda: children.append(spawn_tied(["sleep", "60"], log=tmp_path / "log")))
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert children[0].poll() is None
    os.kill(children[0].pid, signal.SIGKILL)
    children[0].wait()


def test_a_program_that_does_not_exist_says_so_in_its_log(tmp_path: Path) -> None:
    child = spawn_tied([str(tmp_path / "no-such-program")], log=tmp_path / "log")
    assert child.wait(10) != 0
    assert "no-such-program" in (tmp_path / "log").read_text()
