"""An S3 endpoint in front of the real one that tells lies about single objects."""

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from tagstream_testing.local.ports import free_ports

_RESET = struct.pack("ii", 1, 0)


class Answer:
    def __init__(self, handler: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.handler = handler
        self.status = status
        self.headers = dict(headers)
        self.body = body

    def head(self, length: int | None) -> None:
        """The status line and the headers; a length of None announces nothing and ends with the connection."""
        self.handler.send_response(self.status)
        for name, value in self.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.handler.send_header(name, value)
        if length is None:
            self.handler.send_header("Connection", "close")
            self.handler.close_connection = True
        else:
            self.handler.send_header("Content-Length", str(length))
        self.handler.end_headers()

    def tell(self) -> None:
        self.head(len(self.body))
        self.handler.wfile.write(self.body)


Lie = Callable[[Answer], None]


def says(status: int) -> Lie:
    """Only this status, without S3's XML, like a gateway."""

    def lie(answer: Answer) -> None:
        answer.status, answer.headers, answer.body = status, {"Content-Type": "text/plain"}, b"no"
        answer.tell()

    return lie


def errs(status: int, code: str, message: str = "no") -> Lie:
    def lie(answer: Answer) -> None:
        answer.status, answer.headers = status, {"Content-Type": "application/xml"}
        answer.body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        answer.tell()

    return lie


def refuses_us(code: str) -> Lie:
    return errs(403, code)


def says_also(name: str, value: str) -> Lie:
    def lie(answer: Answer) -> None:
        answer.headers = {key: old for key, old in answer.headers.items() if key.lower() != name.lower()}
        if value:
            answer.headers[name] = value
        answer.tell()

    return lie


def drips(for_s: Callable[[], bool]) -> Lie:
    """One byte a second, while `for_s()`; the rest at once."""

    def lie(answer: Answer) -> None:
        answer.head(len(answer.body))
        sent = 0
        while sent < len(answer.body) and for_s():
            answer.handler.wfile.write(answer.body[sent : sent + 1])
            answer.handler.wfile.flush()
            sent += 1
            time.sleep(1)
        answer.handler.wfile.write(answer.body[sent:])

    return lie


def waits(until: threading.Event, then: Lie) -> Lie:
    """What `then` says, but not before."""

    def lie(answer: Answer) -> None:
        until.wait()
        then(answer)

    return lie


def takes(seconds: float) -> Lie:
    def lie(answer: Answer) -> None:
        time.sleep(seconds)
        answer.tell()

    return lie


def resets(times: int) -> Lie:
    """Half of the body, then a reset; the truth after this many times."""
    left = [times]

    def lie(answer: Answer) -> None:
        if left[0] == 0:
            answer.tell()
            return
        left[0] -= 1
        answer.head(len(answer.body))
        answer.handler.wfile.write(answer.body[: len(answer.body) // 2])
        answer.handler.wfile.flush()
        answer.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        answer.handler.close_connection = True
        answer.handler.connection.close()

    return lie


def pours(size: int) -> Lie:
    """More bytes than the object has, and no length."""

    def lie(answer: Answer) -> None:
        answer.head(None)
        for _ in range(size // 65_536 + 1):
            answer.handler.wfile.write(bytes(65_536))

    return lie


def is_empty(answer: Answer) -> None:
    answer.body = b""
    answer.tell()


class LyingStore:
    """A proxy that hands requests to the store unchanged, with their Host header, and lies by key. `lies` may be
    changed at any time; `told` counts the lies by key."""

    def __init__(self, upstream: Callable[[], int]) -> None:
        self.lies: dict[str, Lie] = {}
        self.told: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer = _ask(upstream(), self, body)
                lie = store.lies.get(key) or store.lies.get("*")
                with contextlib.suppress(OSError):  # a client that gave up
                    if answer is None:
                        self.close_connection = True
                    elif lie is not None and key:
                        store.told[key] += 1
                        lie(answer)
                    else:
                        store.served[key] += 1
                        answer.tell()

            do_GET = do_PUT = do_HEAD = do_DELETE = _pass  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Silent: a test reads the counters."""

        self._server = ThreadingHTTPServer(("127.0.0.1", free_ports(1)[0]), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """As TAGSTREAM_S3_ENDPOINT takes it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _ask(port: int, handler: BaseHTTPRequestHandler, body: bytes) -> Answer | None:
    """The real store's answer; None: it is away."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
        for name, value in handler.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body or None)
        response = connection.getresponse()
        return Answer(handler, response.status, dict(response.getheaders()), response.read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
