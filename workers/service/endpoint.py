"""/livez, /startupz, /readyz and /metrics over HTTP."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPEN_METRICS

from workers.errors import Misconfigured
from workers.service.http import Answer, PageRequest, ProbeServer, not_found
from workers.types import Health

logger = logging.getLogger(__name__)


class Endpoint:
    """Serves until `close`: 200 for a good report, else 503, with reasons as JSON.

    Args:
        host: address to listen on, or the path of a Unix socket.
        port: 0 takes any free port, which `port` returns.
        alive, started, ready: asked at every request, on the server's thread. They must answer at once.
        metrics_page: the body of /metrics in Prometheus' text format.
        open_metrics_page: its body in OpenMetrics 1.0, for clients that name it in Accept.

    Raises:
        Misconfigured: the port is taken, or the address is not ours.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        alive: Callable[[], Health],
        started: Callable[[], Health],
        ready: Callable[[], Health],
        metrics_page: Callable[[], bytes],
        open_metrics_page: Callable[[], bytes],
    ) -> None:
        listener = listen(host, port)
        self.port: int = 0 if listener.family == socket.AF_UNIX else listener.getsockname()[1]
        self._reports = {"/livez": alive, "/startupz": started, "/readyz": ready}
        self._metrics_page = metrics_page
        self._open_metrics_page = open_metrics_page
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
