"""HTTP connections with one deadline per call, bounded answers, and no redirects.

urllib3's read timeout starts again with every byte, so the deadline is checked between chunks too.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import certifi
import urllib3
from urllib3.exceptions import ReadTimeoutError
from urllib3.response import BaseHTTPResponse, HTTPResponse

_SHORTEST_S = 0.001
_MOST_SERVERS = 16
"""Servers whose connections are kept; at AWS each bucket has its own."""
_CHUNK = 64 * 1024
_LARGEST_REFUSAL = 64 * 1024
_LARGEST_ANSWER = 8 * 1024 * 1024
"""Most bytes of a listing's page: 1,000 keys of 1,024 bytes, escaped, with their other fields."""


class TooLargeAnswer(urllib3.exceptions.ProtocolError):
    """An answer that is read whole is larger than `_LARGEST_ANSWER`."""


class ClockedPool(urllib3.PoolManager):
    """Kept-alive connections without retries or redirects. Thread-safe.

    Args:
        connections: most open connections to a server; a request above that waits for one, on its own clock.
        request_s: time limit of a request outside `within`.
        refusal: the error for an answer other than 2xx, from its status, the start of its body, and its Date.
        ca_certs: a file of trusted certificates; None: the one in SSL_CERT_FILE, or else certifi's.
    """

    def __init__(
        self,
        *,
        connections: int,
        connect_s: float,
        request_s: float,
        refusal: Callable[[int, bytes, str], Exception],
        ca_certs: str | None = None,
    ) -> None:
        if ca_certs is None:
            ca_certs = os.environ.get("SSL_CERT_FILE") or certifi.where()
        super().__init__(
            num_pools=_MOST_SERVERS, maxsize=connections, block=True, cert_reqs="CERT_REQUIRED", ca_certs=ca_certs
        )
        self._refusal = refusal
        self._connect_s = connect_s
        self._request_s = request_s
        self._clock = threading.local()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Bound the time of all this thread's requests inside, within outer bounds."""
        outer = getattr(self._clock, "until", None)
        until = time.monotonic() + seconds
        self._clock.until = until if outer is None else min(outer, until)
        try:
            yield
        finally:
            self._clock.until = outer

    def urlopen(  # type: ignore[override]  # urllib3 overloads what is plain here
        self, method: str, url: str, redirect: bool = True, **kwargs: Any
    ) -> BaseHTTPResponse:
        left = max(_SHORTEST_S, self._left_s())
        timeout = urllib3.Timeout(connect=min(self._connect_s, left), total=left)
        whole = kwargs.pop("preload_content", True)
        clocked = {**kwargs, "timeout": timeout, "pool_timeout": left, "retries": False, "preload_content": False}
        answer = super().urlopen(method, url, redirect=False, **clocked)
        self._clock.date = answer.headers.get("Date")
        if not 200 <= answer.status < 300:
            raise self._refusal(answer.status, self._start_of(answer), answer.headers.get("Date", ""))
        return self._held(answer) if whole else answer

    def read_chunk(self, answer: BaseHTTPResponse, amount: int) -> bytes:
        """The next bytes of a stored body, at most `amount`; empty: end. Raises ReadTimeoutError: the time is over."""
        left = self._left_s()
        if left <= 0:
            raise ReadTimeoutError(None, "", "no time is left")  # type: ignore[arg-type]  # the pool is not read
        connection = answer.connection
        if connection is not None and (sock := getattr(connection, "sock", None)) is not None:
            sock.settimeout(left)
        return answer.read1(amount, decode_content=False)

    @property
    def date(self) -> str | None:
        """The Date of the last answer that this thread had."""
        return getattr(self._clock, "date", None)

    def _left_s(self) -> float:
        until = getattr(self._clock, "until", None)
        return self._request_s if until is None else until - time.monotonic()

    def _start_of(self, answer: BaseHTTPResponse) -> bytes:
        """The start of a refusal's body; one that breaks off is read as far as it came."""
        body = b""
        try:
            while len(body) < _LARGEST_REFUSAL and (chunk := self.read_chunk(answer, _CHUNK)):
                body += chunk
        except urllib3.exceptions.HTTPError:
            pass
        finally:
            let_go(answer)
        return body

    def _held(self, answer: BaseHTTPResponse) -> HTTPResponse:
        body = bytearray()
        try:
            while chunk := self.read_chunk(answer, _CHUNK):
                body += chunk
                if len(body) > _LARGEST_ANSWER:
                    raise TooLargeAnswer(f"an answer of more than {_LARGEST_ANSWER} bytes")
        finally:
            let_go(answer)
        text = io.BytesIO(body)
        return HTTPResponse(text, answer.headers, answer.status, decode_content=False, enforce_content_length=False)


def let_go(answer: BaseHTTPResponse) -> None:
    """Return a connection to the pool, or close it if unread."""
    answer.close()
    answer.release_conn()
