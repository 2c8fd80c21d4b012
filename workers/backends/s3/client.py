"""minio's client over an HTTP pool of ours: one deadline a call, bounded answers, no redirects.

urllib3's read timeout starts anew with every byte that arrives, so the deadline is looked at between chunks too.
"""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import certifi
import urllib3
from minio import Minio
from minio.time import to_amz_date
from urllib3.exceptions import ReadTimeoutError
from urllib3.response import BaseHTTPResponse, HTTPResponse

from workers.backends.s3.answers import S3Answer, read_answer

_log = logging.getLogger(__name__)

_SHORTEST_S = 0.001
_MOST_SERVERS = 16
"""Servers whose connections are kept; at AWS each bucket has its own."""
_CHUNK = 64 * 1024
_LARGEST_REFUSAL = 64 * 1024
_LARGEST_ANSWER = 8 * 1024 * 1024
"""A page of a listing, at most: 1,000 keys of 1,024 bytes, escaped, with what else is said of each."""


class S3Refusal(Exception):
    """The server answered, but not with the requested object."""

    def __init__(self, answer: S3Answer) -> None:
        super().__init__(answer.said)
        self.answer = answer


class TooLargeAnswer(urllib3.exceptions.ProtocolError):
    """A listing or other whole answer is larger than S3 defines."""


class ClockedPool(urllib3.PoolManager):
    """Kept-alive connections to a store, without retries or redirects. Thread-safe.

    Args:
        connections: how many may be open to each server; a request above that waits for one, on its own clock.
        connect_s: for a TCP connection (and TLS) to be made.
        request_s: for a request made outside `within`.
        ca_certs: a file of certificates to trust; None: the one that SSL_CERT_FILE names, or else certifi's.
    """

    def __init__(self, *, connections: int, connect_s: float, request_s: float, ca_certs: str | None = None) -> None:
        if ca_certs is None:
            ca_certs = os.environ.get("SSL_CERT_FILE") or certifi.where()
        super().__init__(
            num_pools=_MOST_SERVERS, maxsize=connections, block=True, cert_reqs="CERT_REQUIRED", ca_certs=ca_certs
        )
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
            raise S3Refusal(self._refusal(answer))
        return self._held(answer) if whole else answer

    def read_chunk(self, answer: BaseHTTPResponse, amount: int) -> bytes:
        """The next bytes of a stored body, at most `amount`; empty: end.

        Raises:
            ReadTimeoutError: the time is over.
        """
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

    def _refusal(self, answer: BaseHTTPResponse) -> S3Answer:
        """An answer as a refusal; a body that breaks off is read as far as it came."""
        body = b""
        try:
            while len(body) < _LARGEST_REFUSAL and (chunk := self.read_chunk(answer, _CHUNK)):
                body += chunk
        except urllib3.exceptions.HTTPError:
            pass
        finally:
            let_go(answer)
        return read_answer(answer.status, body, answer.headers.get("Date", ""))

    def _held(self, answer: BaseHTTPResponse) -> HTTPResponse:
        """The same answer with its body in memory."""
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


class SkewCorrectedMinio(Minio):
    """Signs by our clock, or by the store's once it objects. Thread-safe.

    A signature holds for 15 minutes, and our clock may be off by more. The store's time is carried on by the monotonic
    clock, so that a wall clock that jumps again changes nothing.
    """

    _began: datetime | None = None
    """The store's time when our monotonic clock stood at 0."""

    def take_time_of(self, answer: S3Answer) -> bool:
        """Take the store's time from an answer; False if it has none."""
        try:
            now = parsedate_to_datetime(answer.date).astimezone(UTC)
            self._began = now - timedelta(seconds=time.monotonic())
        except (ValueError, OverflowError):
            return False
        off_by = (datetime.now(UTC) - now).total_seconds()
        _log.warning("this clock differs from the object store's by %.0f s: signing with the store's time", off_by)
        return True

    def _build_headers(self, *arguments: Any, **more: Any) -> tuple[Any, datetime]:
        """Sign with the store's time; minio asks for the time only here, as a test checks."""
        headers, date = super()._build_headers(*arguments, **more)
        if self._began is not None:
            date = self._began + timedelta(seconds=time.monotonic())
            headers["x-amz-date"] = to_amz_date(date)
        return headers, date
