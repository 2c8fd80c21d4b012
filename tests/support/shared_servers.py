"""One set of servers for all processes of a test run."""

from __future__ import annotations

import copy
import pickle
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from socketserver import StreamRequestHandler, ThreadingMixIn, UnixStreamServer
from typing import Protocol, TypeVar, cast

from tagstream_testing.local.apache_kafka import ApacheKafka, learn_first_start
from tagstream_testing.local.scratch import Scratch
from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.local.server import CannotStart, Server
from tests.support.processes import lives

ServerT = TypeVar("ServerT", bound=Server)


class Servers(Protocol):
    """Where a test finds the servers of its run."""

    def up(self, kind: type[ServerT]) -> ServerT:
        """The run's server of this kind, started if it is not. It refuses to be stopped, killed or frozen."""


def make(kind: type[ServerT], scratch: Scratch, name: str) -> ServerT:
    if issubclass(kind, ApacheKafka):
        with suppress(CannotStart):  # which says itself why
            learn_first_start()
    if issubclass(kind, SeaweedFS):
        return kind(scratch.path / name, scratch.will_litter)
    return kind(scratch.path / name)


class _SharedProcess:
    """The process of a server that other tests use at the same time."""

    def __init__(self, name: str, pid: int) -> None:
        self.name, self.pid = name, pid

    def poll(self) -> int | None:
        return None if lives(self.pid) else -1

    def wait(self, timeout: float | None = None) -> int:
        raise AssertionError(f"{self.name} belongs to the whole run: a test that breaks it takes a fixture own_…")

    def send_signal(self, which: int, /) -> None:
        self.wait()


class OwnedServers:
    """The servers of this process, each started once, all at the same time."""

    def __init__(self) -> None:
        self._scratch = Scratch()
        self._threads = ThreadPoolExecutor(thread_name_prefix="server-start")
        self._starts: dict[type[Server], Future[Server]] = {}
        self._lock = threading.Lock()
        self._listener: _Listener | None = None

    def up(self, kind: type[ServerT]) -> ServerT:
        with self._lock:
            if kind not in self._starts:
                self._starts[kind] = self._threads.submit(lambda: make(kind, self._scratch, kind.__name__).start())
        server = copy.copy(self._starts[kind].result())
        if server.pid is None:
            raise CannotStart(server.complaint(f"ended by itself with exit code {server.exit_code}"))
        server._process = _SharedProcess(server.name, server.pid)
        return cast(ServerT, server)

    def listen(self) -> str:
        """Answer other processes from now on; returns the address, a path."""
        self._listener = _Listener(str(self._scratch.path / "servers.sock"), _Answer)
        self._listener.servers = self
        threading.Thread(target=self._listener.serve_forever, args=(0.02,), name="server-requests", daemon=True).start()
        return str(self._listener.server_address)

    def close(self) -> None:
        if self._listener is not None:
            self._listener.shutdown()
            self._listener.server_close()
        self._threads.shutdown()
        for start in self._starts.values():
            if start.exception() is None:
                start.result().kill()
        self._scratch.close()


class _Listener(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    servers: OwnedServers


class _Answer(StreamRequestHandler):
    """The server of this class, or the reason for its absence."""

    server: _Listener

    def handle(self) -> None:
        kind = pickle.load(self.rfile)
        try:
            answer: Server | CannotStart = self.server.servers.up(kind)
        except CannotStart as error:
            answer = error
        pickle.dump(answer, self.wfile)


class AskedServers:
    """The servers of the process that listens at this address."""

    def __init__(self, address: str) -> None:
        self._address = address

    def up(self, kind: type[ServerT]) -> ServerT:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(self._address)
            with asking.makefile("rwb") as channel:
                pickle.dump(kind, channel)
                channel.flush()
                answer = pickle.load(channel)
        if isinstance(answer, CannotStart):
            raise answer
        return cast(ServerT, answer)
