"""/livez, /startupz, /readyz and /metrics over HTTP.

By the standard library's web server, with a time-out and a connection limit.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPEN_METRICS

from workers.errors import Misconfigured
from workers.types import Health

logger = logging.getLogger(__name__)

_NO_DESCRIPTOR_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The path and the Accept header of a request."""

    path: str
    accept: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a path."""

    status: int
    content_type: str
    body: bytes


class ProbeServer(ThreadingMixIn, HTTPServer):
    """Answers GET and HEAD by `answer`, on own threads, until `close`.

    Args:
        answer: called for one request at a time: it must return at once. A query is not passed. An exception is
            logged and answered with 500.
    """

    connections = 64
    """Open at once, each with a thread; one more closes the oldest."""
    seconds = 5.0
    """For each read and write of a connection."""
    daemon_threads = True  # a process that ends by an error must not wait for a scraper's connection
    block_on_close = False

    def __init__(self, listener: socket.socket, answer: Callable[[PageRequest], Answer]) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self._answer = answer
        self._answering = threading.Lock()
        self._open: dict[socket.socket, None] = {}  # the oldest first
        self._opening = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and drop the connections that are open."""
        self.shutdown()
        self.server_close()
        with self._opening:
            for client in self._open:
                _drop(client)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:  # no descriptor is free: without a pause, to try again would be to spin
            logger.warning("a connection to the probe port can't be accepted: %s", error.strerror)
            self._drop_oldest()
            time.sleep(_NO_DESCRIPTOR_PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._open) >= self.connections:
            self._drop_oldest()
        with self._opening:
            self._open[request] = None
        super().process_request(request, client_address)

    def _drop_oldest(self) -> None:
        with self._opening:
            oldest = next(iter(self._open), None)
            if oldest is not None:
                del self._open[oldest]
                _drop(oldest)

    def shutdown_request(self, request: Any) -> None:
        with self._opening:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a client that left, at debug level."""
        logger.debug("a connection to the probe port ended early", exc_info=True)

    def ask(self, request: PageRequest) -> Answer:
        with self._answering:
            try:
                return self._answer(request)
            except Exception:  # one answer's bug must not take the other probes with it
                logger.exception("answering %s failed", request.path)
                return _refused(HTTPStatus.INTERNAL_SERVER_ERROR)


class _Handler(BaseHTTPRequestHandler):
    """One GET or HEAD, then the connection closes (HTTP/1.0)."""

    server: ProbeServer

    def setup(self) -> None:
        self.request.settimeout(self.server.seconds)
        super().setup()

    def do_GET(self) -> None:
        request = PageRequest(self.path.partition("?")[0], ",".join(self.headers.get_all("Accept", ())))
        answer = self.server.ask(request)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(answer.body)

    do_HEAD = do_GET  # noqa: N815  # the library's name

    def version_string(self) -> str:
        return "tagstream"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        """Log no requests: probes come every second."""


def not_found() -> Answer:
    return _refused(HTTPStatus.NOT_FOUND)


def _refused(status: HTTPStatus) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{status.phrase}\n".encode())


def _drop(client: socket.socket) -> None:
    """Wake the thread that serves it; its end closes the socket."""
    with contextlib.suppress(OSError):  # it has gone already
        client.shutdown(socket.SHUT_RDWR)


class Endpoint:
    """Serves until `close`: 200 for a good report, else 503, with reasons as JSON.

    Args:
        host: address to listen on, or the path of a Unix socket.
        port: 0 takes any free port, which `port` returns.
        reports: by path; asked at every request, on the server's thread. They must answer at once.
        metrics_page: the body of /metrics in Prometheus' text format.
        open_metrics_page: its body in OpenMetrics 1.0, for clients that name it in Accept.

    Raises:
        Misconfigured: the port is taken, or the address is not ours.
    """

    def __init__(
        self,
        host: str,
        port: int,
        reports: Mapping[str, Callable[[], Health]],
        metrics_page: Callable[[], bytes],
        open_metrics_page: Callable[[], bytes],
    ) -> None:
        listener = listen(host, port)
        self.port: int = 0 if listener.family == socket.AF_UNIX else listener.getsockname()[1]
        self._reports, self._metrics_page, self._open_metrics_page = reports, metrics_page, open_metrics_page
        self._server = ProbeServer(listener, self._answer)
        where = host if listener.family == socket.AF_UNIX else f"{host}:{self.port}"
        logger.info("serving /livez, /startupz, /readyz and /metrics on %s", where)

    def close(self) -> None:
        """Stop listening; open connections are dropped."""
        self._server.close()

    def _answer(self, request: PageRequest) -> Answer:
        if request.path in self._reports:
            return report_page(self._reports[request.path]())
        if request.path != "/metrics":
            return not_found()
        if "application/openmetrics-text" in request.accept:
            return Answer(200, OPEN_METRICS, self._open_metrics_page())
        return Answer(200, CONTENT_TYPE_LATEST, self._metrics_page())


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, with the arguments and errors of `Endpoint`."""
    if host.startswith("/"):
        Path(host).unlink(missing_ok=True)  # of a process that was killed
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(host)
        listener.listen()
        return listener
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise Misconfigured(
            f"TAGSTREAM_HTTP_HOST={host} is not an address of this machine: {error.strerror}"
        ) from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)  # callers wait for the server here; one more than that waits a second to try again
    except OSError as error:
        listener.close()
        raise Misconfigured(
            f"can't listen on {host}:{port}: {error.strerror}. Set TAGSTREAM_HTTP_PORT to another port, "
            "to 0 (any free one) or to off."
        ) from error
    return listener


def report_page(report: Health) -> Answer:
    """A health report as JSON."""
    body: dict[str, object] = {"ok": report.ok, "reasons": list(report.reasons)}
    if report.in_flight:
        body["in_flight"] = dict(report.in_flight)
    if report.idle_s is not None:
        body["idle_s"] = report.idle_s
    return Answer(200 if report.ok else 503, "application/json", json.dumps(body).encode())
