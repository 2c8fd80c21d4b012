"""Who may read and who may correct: a token, a signed cookie, people whom a proxy names, forms of our pages alone."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Collection, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tagstream_index.query import require
from workers.backends.renewal import RenewedFile, why
from workers.errors import Misconfigured

COOKIE: Final = "tagstream"
KEPT_S: Final = 30 * 24 * 3600
_WRONG_S: Final = 0.5
"""Until a wrong token is refused; no thread waits."""
_FORM_BYTES: Final = 16 * 1024
_ADDRESS_BYTES: Final = 8 * 1024
OPEN: Final = ("/login", "/static/", "/livez", "/readyz")
"""Paths that need no token."""
API: Final = "/api/"
"""Where programs ask: by a bearer token, and errors are problems of RFC 9457."""
PROBLEM: Final = "application/problem+json"
PROBES: Final = ("/livez", "/readyz")
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
NAME_MAX: Final = 256
"""Characters of a person's name, as a correction takes them."""

HEADERS: Final = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Person(NamedTuple):
    """Who asks; `name` is empty if no header names them."""

    name: str
    editor: bool


class People:
    """The people whom a proxy's header names; a file has those who may correct. Thread-safe.

    Raises:
        Misconfigured: no header has this name, or the file can't be read.
    """

    def __init__(self, header: str, editors: Path | None) -> None:
        if not re.fullmatch("[A-Za-z0-9-]{1,100}", header):
            raise Misconfigured(f"--user-header {header}: name a header, such as X-Forwarded-User")
        self._header = header.lower().encode()
        self._editors = None if editors is None else RenewedFile(editors, _names)
        try:
            self.may_correct("")
        except (OSError, ValueError) as error:
            raise Misconfigured(f"--editors {editors}: {why(error)}") from error

    def name(self, request: Request) -> str:
        """The name in the header; empty without one, with two, or if it hides characters."""
        found = [value for name, value in request.headers.raw if name == self._header]
        if len(found) != 1 or len(found[0]) > 4 * NAME_MAX:
            return ""
        try:
            name = found[0].decode().strip()
        except UnicodeDecodeError:
            return ""
        return name if len(name) <= NAME_MAX and name.isprintable() else ""

    def may_correct(self, name: str) -> bool:
        return self._editors is not None and name in self._editors()


def _names(text: str) -> frozenset[str]:
    lines = (line.strip() for line in text.removeprefix("\ufeff").splitlines())
    return frozenset(line for line in lines if line and not line.startswith("#"))


def people_of(header: str | None, editors: Path | None, *, behind_proxy: bool) -> People | None:
    """Raises Misconfigured: as `People`; or any client could send the header."""
    sent = "--user-header: any client could send it; say --behind-proxy too, where a proxy sets it"
    require(header is None or behind_proxy, sent)
    named = "--editors: say --user-header too, the header in which the proxy names people"
    require(editors is None or header is not None, named)
    return None if header is None else People(header, editors)


class Access:
    """The token, its sessions, and the people of a proxy. Without a token there is no login."""

    def __init__(self, token: str, *, to_read: bool, people: People | None = None) -> None:
        self._token = token.encode()
        self._secret = self._token or secrets.token_bytes(32)
        self._people = people
        self.to_read = to_read

    @property
    def possible(self) -> bool:
        """Whether there is a login."""
        return bool(self._token)

    def person(self, request: Request) -> Person | None:
        """Who asks; None: without the token, and not named."""
        name = "" if self._people is None else self._people.name(request)
        by_token = self.session(request) is not None or bool(self.bearer(request))
        if not name and not by_token:
            return None
        return Person(name, by_token or (self._people is not None and self._people.may_correct(name)))

    def may_correct(self, request: Request) -> bool:
        """Whether to offer it: what is sent needs `may_send`."""
        person = self.person(request)
        return person is not None and person.editor

    def name(self, request: Request) -> str:
        """Who corrects, for `by`; empty if unknown."""
        person = self.person(request)
        return "" if person is None else person.name

    async def log_in(self, token: str) -> str | None:
        """A cookie's value; None, after half a second, if the token is wrong."""
        if self._is_token(token.encode(errors="replace")):
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

    def bearer(self, request: Request) -> bool | None:
        """Whether a program sent the token; None: none, or the proxy sent its own."""
        sent = request.headers.getlist("authorization") if request.scope["path"].startswith(API) else []
        found = [token for scheme, _, token in (each.partition(" ") for each in sent) if scheme.lower() == "bearer"]
        if len(found) == 1 and self._is_token(found[0].strip().encode("latin-1")):
            return True
        return False if found and (self._people is None or not self._people.name(request)) else None

    def form_key(self, request: Request) -> str:
        """A secret that a form must send: no other site knows it."""
        session = self.session(request)
        if session is not None:
            return self._sign("form", session)
        person = self.person(request)
        return self._sign("form of", person.name) if person is not None and person.name and person.editor else ""

    def may_send(self, request: Request, key: str) -> bool:
        """Whether our page or a program sends a change. No browser adds a token by itself."""
        mine = self.form_key(request)
        return bool(self.bearer(request)) or (bool(mine) and hmac.compare_digest(mine.encode(), key.encode()))

    def _is_token(self, token: bytes) -> bool:
        return self.possible and hmac.compare_digest(token, self._token)

    def _sign(self, what: str, text: str) -> str:
        return hmac.new(self._secret, f"{what} {text}".encode(errors="replace"), hashlib.sha256).hexdigest()


class Guard:
    """Around the application: safety headers, known hosts (lower-case; none: any), bounded addresses, and the token."""

    def __init__(self, app: ASGIApp, access: Access, hosts: Collection[str]) -> None:
        self._app, self._access, self._hosts = app, access, hosts

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

        request = Request(scope)
        refusal = self._refusal(request) or await self._stranger(request)
        await (self._app if refusal is None else refusal)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        path = request.scope["path"]  # request.url depends on Host
        if len(request.scope["query_string"]) + len(request.scope["raw_path"]) > _ADDRESS_BYTES:
            return _refused(request, 414, "This address is too long: search for fewer words.")
        if self._hosts and path not in PROBES and _host(request) not in self._hosts:
            return _refused(request, 421, f"The page has another name: open it by {' or '.join(self._hosts)}.")
        if request.method not in ("GET", "HEAD", "POST"):
            return _refused(request, 405, "Only GET and POST.")
        if request.method == "POST" and request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return _refused(request, 403, "Another site sent this form.")
        return None

    async def _stranger(self, request: Request) -> Response | None:
        path = request.scope["path"]
        if self._access.bearer(request) is False:
            await asyncio.sleep(_WRONG_S)
            return problem(401, "This is not the token.")
        if path.startswith(API) and request.method == "POST" and not _is_json(request):
            return problem(415, "Send JSON as `application/json`: a form of another site can't.")
        if self._access.to_read and not path.startswith(OPEN) and self._access.person(request) is None:
            if path.startswith(API):
                return problem(401, "Send the token as `Authorization: Bearer TOKEN`.")
            return RedirectResponse("/login", 303)
        return None


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error for programs, by RFC 9457."""
    said = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if status == HTTPStatus.UNAUTHORIZED:
        headers = {"www-authenticate": "Bearer"}
    return JSONResponse(said, status, headers, PROBLEM)


def _refused(request: Request, status: int, detail: str) -> Response:
    if request.scope["path"].startswith(API):
        return problem(status, detail)
    return PlainTextResponse(f"{detail}\n", status)


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _host(request: Request) -> str:
    name = request.headers.get("host", "").lower()
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]


def reader(request: Request, session: str | None, *, behind_proxy: bool) -> str:
    """Who searches: the session, else the client's address, by the word of the nearest proxy."""
    forwarded = request.headers.getlist("x-forwarded-for") if behind_proxy else []
    if session is not None or forwarded:
        return session or forwarded[-1].rpartition(",")[2].strip()
    return "" if request.client is None else request.client.host


async def body_of(request: Request, most: int) -> bytes | None:
    """The body of a request; None if it is larger."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > most:
            return None
    return body


async def pairs_of(request: Request, most_fields: int = 10) -> list[tuple[str, str]]:
    """Names and values of a form's fields; empty if it is too large or invalid."""
    body = await body_of(request, _FORM_BYTES) or b""
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=most_fields)
    except ValueError:
        return []
