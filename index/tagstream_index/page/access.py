"""Who may read and who may correct: a token, a signed cookie, forms that only our pages can send."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final, TypeAlias
from urllib.parse import parse_qsl

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE: Final = "tagstream"
KEPT_S: Final = 30 * 24 * 3600
_WRONG_S: Final = 0.5
_FORM_BYTES: Final = 16 * 1024
_ADDRESS_BYTES: Final = 8 * 1024
OPEN: Final = ("/login", "/static/", "/livez", "/readyz")
"""Paths that need no token."""
PROBES: Final = ("/livez", "/readyz")
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

Call: TypeAlias = Callable[[Request], Awaitable[Response]]

HEADERS: Final = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Access:
    """The token and its sessions.

    Args:
        token: empty: there is no login, so nothing can be corrected.
        to_read: whether reading needs the token too.
    """

    def __init__(self, token: str, *, to_read: bool) -> None:
        self._token = token.encode()
        self.to_read = to_read

    @property
    def possible(self) -> bool:
        return bool(self._token)

    async def log_in(self, token: str) -> str | None:
        """A cookie's value; None, after half a second, if the token is wrong."""
        if self.possible and hmac.compare_digest(token.encode(errors="replace"), self._token):
            session = f"{int(time.time()) + KEPT_S}.{secrets.token_hex(16)}"
            return f"{session}.{self._sign('session', session)}"
        await asyncio.sleep(_WRONG_S)
        return None

    def session(self, request: Request) -> str | None:
        """The session of a request; None if missing or expired."""
        session, _, mac = request.cookies.get(COOKIE, "").rpartition(".")
        until = session.partition(".")[0]
        if not self.possible or not hmac.compare_digest(mac.encode(), self._sign("session", session).encode()):
            return None
        return session if until.isdecimal() and int(until) > time.time() else None

    def form_key(self, request: Request) -> str:
        """A secret that a form must send: no other site knows it."""
        session = self.session(request)
        return "" if session is None else self._sign("form", session)

    def may_send(self, request: Request, key: str) -> bool:
        mine = self.form_key(request)
        return bool(mine) and hmac.compare_digest(mine.encode(), key.encode())

    def _sign(self, what: str, text: str) -> str:
        return hmac.new(self._token, f"{what} {text}".encode(errors="replace"), hashlib.sha256).hexdigest()


class Guard:
    """Around the application: safety headers, known hosts, bounded addresses, and the token.

    Args:
        hosts: names under which the page is opened, lower-case, so that no foreign name leads here; empty: any.
    """

    def __init__(self, app: ASGIApp, access: Access, hosts: Collection[str]) -> None:
        self._app = app
        self._access = access
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["cache-control"] = "private, no-cache"
            await send(message)

        refusal = self._refusal(Request(scope))
        await (self._app if refusal is None else refusal)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        path = request.scope["path"]  # request.url depends on Host
        if len(request.scope["query_string"]) + len(request.scope["raw_path"]) > _ADDRESS_BYTES:
            return PlainTextResponse("This address is too long: search for fewer words.\n", 414)
        if self._hosts and path not in PROBES and _host(request) not in self._hosts:
            return PlainTextResponse(f"The page has another name: open it by {' or '.join(self._hosts)}.\n", 421)
        if request.method not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("Only GET and POST.\n", 405)
        if request.method == "POST" and request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return PlainTextResponse("Another site sent this form.\n", 403)
        if self._access.to_read and not path.startswith(OPEN) and self._access.session(request) is None:
            return RedirectResponse("/login", 303)
        return None


def _host(request: Request) -> str:
    name = request.headers.get("host", "").lower()
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]


def reader(request: Request, session: str | None, *, behind_proxy: bool) -> str:
    """Who searches: the session, else the client's address, by the word of the nearest proxy."""
    forwarded = request.headers.getlist("x-forwarded-for") if behind_proxy else []
    if session is not None or forwarded:
        return session or forwarded[-1].rpartition(",")[2].strip()
    return "" if request.client is None else request.client.host


async def form_of(request: Request, most_fields: int = 10) -> dict[str, str]:
    """The fields of a form; empty if it is too large or invalid."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _FORM_BYTES:
            return {}
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=most_fields))
    except ValueError:
        return {}
