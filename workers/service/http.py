"""A web server for probes and scrapes: one GET a connection, and a bound on everything that a client sends or holds.

The port may be open to a whole network. So a connection has a few seconds for all it wants, a request is a few
kilobytes, and a limited number of connections is open at once: one more closes the oldest. A client that asks at once
is answered at once, however many others only hold a connection. There is no keep-alive, no body, no redirect, no
upgrade: what isn't there can't be abused.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

logger = logging.getLogger(__name__)

_REQUEST = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,1023}) HTTP/1\.[01]\r?")
_ACCEPT = re.compile(rb"(?mi)^accept:([ -~\t]*)\r?$")
_HEAD_ENDS = re.compile(rb"\r?\n\r?\n")
_NO_DESCRIPTOR_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What is asked for, and in which forms (the header Accept) the client takes it."""

    path: str
    accept: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a path is answered with."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one client may cost.

    Attributes:
        connections: open at once; each is a file descriptor and `head_bytes` of memory.
        seconds: for the whole of a connection, the request's first byte to the answer's last.
        head_bytes: the request line and the headers together.
    """

    connections: int = 64
    seconds: float = 5.0
    head_bytes: int = 8192


class ProbeServer:
    """Answers GET and HEAD with what `answer` says of a request, on a thread of its own, until `close`.

    Args:
        listener: bound and listening; closed by `close`.
        answer: called on the server's thread, one request at a time: it must return at once. A query is not handed
            on. What it raises is logged and answered with 500.
    """

    def __init__(
        self, listener: socket.socket, answer: Callable[[PageRequest], Answer], limits: ConnectionLimits | None = None
    ) -> None:
        self._listener = listener
        self._listener.setblocking(False)
        self._answer = answer
        self._limits = limits or ConnectionLimits()
        self._open: dict[socket.socket, asyncio.Task[None]] = {}  # the oldest first
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._stopping = asyncio.Event()
        # A daemon: a process that ends by an error must not wait for a scraper's connection.
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and drop the connections that are open."""
        with contextlib.suppress(RuntimeError):  # closed already
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout=5)
        self._listener.close()

    def _run(self) -> None:
        with self._runner:
            self._runner.run(self._serve_until_stopped())

    async def _serve_until_stopped(self) -> None:
        accepting = asyncio.create_task(self._accept())
        stopping = asyncio.create_task(self._stopping.wait())
        done, _ = await asyncio.wait({accepting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _accept(self) -> None:
        while True:
            try:
                await self._accept_one()
            except Exception as error:  # noqa: BLE001  # whatever it is, there would be no probes after it
                # No descriptor or memory is free, or the client has gone already. Without a pause, or one connection
                # less, to try again would be to spin.
                why = error.strerror if isinstance(error, OSError) else repr(error)
                logger.warning("a connection to the port of the probes can't be accepted: %s", why)
                await asyncio.sleep(0 if self._drop_oldest() else _NO_DESCRIPTOR_PAUSE_S)

    async def _accept_one(self) -> None:
        client, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        if len(self._open) >= self._limits.connections:
            self._drop_oldest()
        client.setblocking(False)
        self._open[client] = task = asyncio.create_task(self._serve(client))
        task.add_done_callback(functools.partial(self._forget, client))
        await asyncio.sleep(0)  # a full backlog must not keep accepted connections from their turn

    def _drop_oldest(self) -> bool:
        """Whether there was one to drop."""
        for client in self._open:
            return self._open.pop(client).cancel()
        return False

    def _forget(self, client: socket.socket, _: asyncio.Task[None]) -> None:
        self._open.pop(client, None)
        client.close()

    async def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(TimeoutError, OSError):  # too slow, or gone: no client is left to answer
            async with asyncio.timeout(self._limits.seconds):
                await self._converse(client)

    async def _converse(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        head = await self._read_head(client)
        if not head:
            return
        await loop.sock_sendall(client, self._respond(head))
        # To close while something of the request is unread would reset the connection, and with it the answer.
        client.shutdown(socket.SHUT_WR)
        unread = 8 * self._limits.head_bytes
        while unread > 0 and (more := await loop.sock_recv(client, 4096)):
            unread -= len(more)

    async def _read_head(self, client: socket.socket) -> bytes:
        """Everything up to the empty line; at the limit what has come, empty where the client has gone before."""
        head = bytearray()
        while len(head) < self._limits.head_bytes:
            more = await asyncio.get_running_loop().sock_recv(client, self._limits.head_bytes - len(head))
            if not more:
                return b""
            searched = max(0, len(head) - 3)
            head += more
            if _HEAD_ENDS.search(head, searched):
                break
        return bytes(head)

    def _respond(self, head: bytes) -> bytes:
        request = _REQUEST.fullmatch(head.partition(b"\n")[0])
        if not _HEAD_ENDS.search(head):
            return _written(_refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        if request is None:
            return _written(_refused(HTTPStatus.BAD_REQUEST))
        method, target = request[1], request[2].decode("ascii")
        if method not in (b"GET", b"HEAD"):
            return _written(_refused(HTTPStatus.METHOD_NOT_ALLOWED))
        accept = ",".join(value.decode("ascii") for value in _ACCEPT.findall(head))
        return _written(self._ask(PageRequest(target.partition("?")[0], accept)), with_body=method == b"GET")

    def _ask(self, request: PageRequest) -> Answer:
        try:
            return self._answer(request)
        except Exception:  # one answer's bug must not take the other probes with it
            logger.exception("no answer for %s", request.path)
            return _refused(HTTPStatus.INTERNAL_SERVER_ERROR)


def not_found() -> Answer:
    return _refused(HTTPStatus.NOT_FOUND)


def _refused(status: HTTPStatus) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{status.phrase}\n".encode())


def _written(answer: Answer, with_body: bool = True) -> bytes:
    status = HTTPStatus(answer.status)
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (answer.body if with_body else b"")
