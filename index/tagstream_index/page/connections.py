"""The page's connections: a clock for each request, and few connections of one address."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from functools import partial
from typing import Final

import h11
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tagstream_index.page.access import HEADERS, PROBES

CONNECTIONS: Final = 500
"""At the same time."""
OF_ADDRESS: Final = 50
REQUEST_S: Final = 10.0
"""From the connection, or the answer before, to the last byte of a request."""
_FULL: Final = PlainTextResponse(
    "Too many connections: try again in a moment.\n", 503, {"retry-after": "2", "connection": "close", **HEADERS}
)


class Connection(H11Protocol):
    """uvicorn's connection with a clock and limits, which uvicorn does not have.

    Beyond a limit the oldest connection that waits for its client is closed. If all are at work, only probes are
    answered. Behind a proxy, from which all connections come, an address has no limit.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does so only if the listening socket names its protocol. Else a body waits 40 ms behind its head.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.made_at = self.loop.time()
        self._clock = self.loop.call_later(REQUEST_S, self._end)
        everyone = [each for each in self.connections if isinstance(each, Connection)]
        self._make_room(everyone, CONNECTIONS)
        if not self.config.proxy_headers and self.client is not None:
            mine = self.client[0]
            self._make_room((each for each in everyone if each.client and each.client[0] == mine), OF_ADDRESS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clock.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._clock.cancel()

    def on_response_complete(self) -> None:
        self._clock.cancel()
        self._clock = self.loop.call_later(REQUEST_S, self._end)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        head = h11.Response(status_code=400, headers=[*HEADERS.items(), ("connection", "close")])
        for part in (head, h11.Data(data=msg.encode()), h11.EndOfMessage()):
            self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    def _make_room(self, others: Iterable[Connection], most: int) -> None:
        there = [each for each in others if each in self.connections]
        if len(there) <= most:
            return
        for_client = (h11.IDLE, h11.SEND_BODY)
        others = [each for each in there if each is not self]
        waiting = [each for each in others if each.conn.their_state in for_client or each.flow.write_paused]
        if waiting:
            min(waiting, key=lambda each: each.made_at)._end()
        else:
            self.app = partial(_probes_only, self.app)

    def _end(self) -> None:
        self.connections.discard(self)  # no longer counted
        self.transport.abort()


async def _probes_only(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await (app if scope.get("path") in PROBES else _FULL)(scope, receive, send)
