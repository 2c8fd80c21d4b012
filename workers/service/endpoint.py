"""/livez, /readyz and /metrics over HTTP, on a thread of their own."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from workers.errors import Misconfigured
from workers.service.health import Report

logger = logging.getLogger(__name__)


class Endpoint:
    """Serves until `close`. Answers 200 when a report is well and 503 when not, with its reasons as JSON.

    Args:
        host: address to listen on.
        port: 0 takes any free one; `port` tells which.
        alive, ready: asked at every request, on a pool's thread. They must answer at once.
        metrics_page: the body of /metrics in Prometheus' text format.

    Raises:
        Misconfigured: the port is taken, or the address is not ours.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        alive: Callable[[], Report],
        ready: Callable[[], Report],
        metrics_page: Callable[[], bytes],
    ) -> None:
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._server = uvicorn.Server(_config(_application(alive, ready, metrics_page)))
        # A daemon: a process that ends by an error must not wait for a scraper's connection.
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self._thread.start()
        logger.info("serving /livez, /readyz and /metrics on %s:%s", host, self.port)

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def close(self) -> None:
        """Stop listening; waits a second for answers under way."""
        self._server.should_exit = True
        self._thread.join(timeout=5)
        self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
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
        listener.listen()  # from now on a caller waits for the server instead of being refused
    except OSError as error:
        listener.close()
        raise Misconfigured(
            f"can't listen on {host}:{port}: {error.strerror}. Set TAGSTREAM_HTTP_PORT to another port, "
            "to 0 (any free one) or to off."
        ) from error
    return listener


def _config(application: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )


def _application(
    alive: Callable[[], Report], ready: Callable[[], Report], metrics_page: Callable[[], bytes]
) -> Starlette:
    def metrics(_: Request) -> Response:
        return Response(metrics_page(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/livez", _answer(alive)),
            Route("/readyz", _answer(ready)),
            Route("/metrics", metrics),
        ]
    )


def _answer(ask: Callable[[], Report]) -> Callable[[Request], Response]:
    def answer(_: Request) -> Response:
        report = ask()
        body: dict[str, object] = {"ok": report.ok, "reasons": list(report.reasons)}
        if in_flight := getattr(report, "in_flight", None):
            body["in_flight"] = dict(in_flight)
        return JSONResponse(body, status_code=200 if report.ok else 503, headers={"Cache-Control": "no-store"})

    return answer
