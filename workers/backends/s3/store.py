"""The object store's port over S3, and more for the commands."""

from __future__ import annotations

import functools
import io
import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import urllib3
from minio.datatypes import Object as MinioObject
from minio.error import MinioException
from minio.helpers import DictType, check_bucket_name, check_object_name
from tenacity import Retrying, retry_if_exception_type, stop_before_delay, wait_random_exponential
from urllib3.response import BaseHTTPResponse

from schemas.printable import printable
from schemas.text import version_or_none
from workers import metrics
from workers.backends.http_pool import ClockedPool, TooLargeAnswer, let_go
from workers.backends.s3.client import (
    TOO_SKEWED,
    WRONG_SIGNATURE,
    S3Answer,
    S3Refusal,
    SkewCorrectedMinio,
    advice,
    meaning,
    refuses_keys,
)
from workers.backends.s3.credentials import FileCredentials, KeyFiles, Renewable, WebIdentity, WebIdentityCredentials
from workers.errors import (
    BucketGone,
    Fault,
    Gone,
    LargerThanReserved,
    Misconfigured,
    Rejected,
    Superseded,
    TagstreamError,
    Unavailable,
)
from workers.types import ObjectVersion, StoredObject

Answer = TypeVar("Answer")

_CHUNK = 256 * 1024
_PAGE = 1000
_CHECK_S = 5.0
_OWN_KEY = ".tagstream-asks-whether-it-may-read"
"""No event chose this key, so an answer about it is about our rights."""
_ETAG = re.compile(r"[\x21\x23-\x7e]{1,1024}")
"""An etag that can be sent in a header and signed. No store gives an object another."""
_NO_SUCH_RANGE = 416
"""An object without bytes has not even a first one."""
_FIRST_RANGE = re.compile(r"bytes 0-[0-9]{1,18}/([0-9]{1,18})")
_SHA256 = "sha256"
"""The name under which an object's metadata say this of its content."""
_REMEDY = "Is TAGSTREAM_S3_ENDPOINT right, and the store running?"


class _Passing(Unavailable):
    """Unavailable in a way that may pass within seconds: worth another try."""

    def __init__(self, detail: str, *, fault: Fault = "service", advice: str = "") -> None:
        super().__init__("s3", detail, fault=fault, advice=advice)


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One line of a bucket's listing.

    Args:
        etag: without quotes.
        last_modified: RFC 3339, UTC.
        date: of the listing's answer, as `last_modified`; None: the answer has no date.
    """

    key: str
    size: int
    etag: str
    last_modified: str
    date: str | None


@dataclass(frozen=True, slots=True)
class FoundObject:
    """An object's facts. `etag` without quotes; `sha256` from `put`, or empty; `date` of the answer."""

    size: int
    etag: str
    sha256: str
    date: str | None = field(default=None, compare=False)


class MinioObjectStore:
    """`ports.ObjectStore`, and more for the commands. Thread-safe; not for child processes.

    Args:
        endpoint_url: `http://host:port` or `https://host`.
        access_key, secret_key: both empty: anonymous, unless `login` is given.
        keys_from: the variables or the file that hold the keys, for people; empty: anonymous.
        region: empty: looked up in the store, once a bucket.
        connections: most open connections, one for each fetching thread.
        retry_s: how long passing failures (5xx, resets, timeouts) are tried again, inside a call's deadline.
        command_s: deadline of the calls that are not in the port.
    """

    def __init__(
        self,
        endpoint_url: str,
        access_key: str,
        secret_key: str,
        region: str = "",
        *,
        session_token: str = "",
        login: FileCredentials | KeyFiles | WebIdentity | None = None,
        keys_from: str = "TAGSTREAM_S3_ACCESS_KEY and TAGSTREAM_S3_SECRET_KEY",
        connections: int = 16,
        connect_s: float = 2.0,
        retry_s: float = 5.0,
        command_s: float = 30.0,
    ) -> None:
        endpoint = urlsplit(endpoint_url)
        self._endpoint = f"{endpoint.scheme}://{endpoint.netloc}"
        self._retry_s = retry_s
        self._command_s = command_s
        self._http = ClockedPool(
            connections=connections, connect_s=connect_s, request_s=command_s, refusal=S3Refusal.of
        )
        self._keys_from = keys_from
        self._renewable: Renewable | None = (
            WebIdentityCredentials(login, self._http) if isinstance(login, WebIdentity) else login
        )
        if self._renewable:  # which minio would not ask where it has keys
            access_key = secret_key = ""
        self._client = SkewCorrectedMinio(
            endpoint.netloc,
            access_key=access_key or None,
            secret_key=secret_key or None,
            session_token=session_token or None,
            credentials=self._renewable,
            secure=endpoint.scheme == "https",
            region=region or None,
            http_client=self._http,
        )

    def get(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None,
        etag: str | None,
        max_bytes: int,
        deadline_s: float,
        first_bytes: int = 0,
        patient: bool = True,
    ) -> StoredObject:
        until = time.monotonic() + deadline_s
        wanted = _bare(etag)
        _check_names(bucket, key, version_id, wanted)

        def read() -> StoredObject:
            return self._read(bucket, key, version_id, wanted, max_bytes, first_bytes)

        return self._patiently(bucket, read, min(self._retry_s, deadline_s) if patient else 0.0, until)

    def head(self, bucket: str, key: str, *, deadline_s: float) -> ObjectVersion:
        until = time.monotonic() + deadline_s
        _check_names(bucket, key, None, None)

        return self._patiently(bucket, lambda: self._look(bucket, key), min(self._retry_s, deadline_s), until)

    def list(self, bucket: str, prefix: str = "", start_after: str = "") -> Iterator[ListedObject]:
        """The bucket's objects under `prefix` behind `start_after`, in key order.

        Raises Unavailable: also of a store that ignores `start_after`: its listing would never end.
        """
        while page := self._patiently(bucket, functools.partial(self._page, bucket, prefix, start_after)):
            if page[-1].key == start_after:
                raise Unavailable("s3", f"{self._endpoint} lists objects twice: does it support `start-after`?")
            yield from page
            start_after = page[-1].key

    def find(self, bucket: str, key: str) -> FoundObject | None:
        """The object under the key; None if it or its bucket is missing.

        Raises:
            Rejected: no client can ask for this name.
            Unavailable: the store fails or refuses.
        """
        _check_names(bucket, key, None, None)

        def find() -> FoundObject | None:
            try:
                found = self._client.stat_object(bucket, key)
            except S3Refusal as refusal:
                if refusal.answer.status == 404:
                    return None
                raise
            said = (found.metadata or {}).get(f"x-amz-meta-{_SHA256}", "")
            return FoundObject(found.size or 0, _bare(found.etag) or "", said, self.date)

        return self._patiently(bucket, find)

    def put(
        self, bucket: str, key: str, body: bytes, content_type: str = "application/octet-stream", *, sha256: str = ""
    ) -> str:
        """Store an object and answer its etag. Raises Unavailable."""
        metadata: dict[str, str | list[str] | tuple[str]] = {_SHA256: sha256} if sha256 else {}

        def put() -> str:
            stored = self._client.put_object(bucket, key, io.BytesIO(body), len(body), content_type, metadata)
            return _bare(stored.etag) or ""

        return self._patiently(bucket, put)

    def link(self, bucket: str, key: str, *, version_id: str | None, file_name: str, seconds: int) -> str:
        """A presigned address of the object, as a download. If the region is known, nothing is sent.

        Args:
            file_name: under which a browser saves it; may be hostile.

        Raises:
            Rejected: no client can ask for this name.
            Unavailable: its credentials can't be had.
        """
        _check_names(bucket, key, version_id, None)
        plain, whole = re.sub(r"[^A-Za-z0-9._-]+", "_", file_name), quote(printable(file_name), safe="")
        saved = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{whole}"
        # A store refuses it of clients without keys.
        said: DictType = {"response-content-disposition": saved} if self._keys_from else {}
        expires = timedelta(seconds=seconds)
        return self._client.presigned_get_object(bucket, key, expires, said, version_id=version_id)

    def make_bucket(self, bucket: str) -> None:
        """Make the bucket unless it is there. Raises Unavailable."""

        def make() -> None:
            try:
                self._list_one(bucket)  # a HEAD has no reason
            except S3Refusal as refusal:
                if refusal.answer.code != "NoSuchBucket":
                    raise
                self._client.make_bucket(bucket)

        self._patiently(bucket, make)

    def remove(self, bucket: str, key: str) -> None:
        """Remove an object; one that is not there is no error. Raises Unavailable."""
        self._patiently(bucket, lambda: self._client.remove_object(bucket, key))

    def check(self, bucket: str) -> None:
        """List one object of the bucket, without patience.

        Raises:
            Misconfigured: the settings are wrong; the text says which and how to fix it.
            Unavailable: no store answers, or it fails; the text names the attempt.
        """
        try:
            check_bucket_name(bucket)
            with self._http.within(_CHECK_S):
                self._list_one(bucket)
        except S3Refusal as refusal:
            said = advice(self._endpoint, bucket, refusal.answer, self._keys_from)
            if refusal.answer.code and refusal.answer.status < 500:
                raise Misconfigured(said) from refusal
            raise Unavailable("s3", said) from refusal
        except Unavailable as error:  # its credentials can't be had
            if error.advice:
                raise Misconfigured(error.advice) from error
            raise
        except ValueError as error:
            raise Misconfigured(f"{bucket!r} can't be a bucket's name: correct TAGSTREAM_BUCKETS") from error
        except (MinioException, urllib3.exceptions.HTTPError, ElementTree.ParseError) as error:
            raise Unavailable("s3", f"{self._endpoint}: {_words(error)}. {_REMEDY}") from error

    def refused_keys(self, bucket: str) -> str | None:
        """Ask as `check` does: the remedy if our keys are refused, empty if accepted; None: unknown."""
        try:
            with self._http.within(_CHECK_S):
                self._list_one(bucket)
        except S3Refusal as refusal:
            refused = refuses_keys(refusal.answer)
            if not refused:
                return None if refused is None else ""
            if self._renewable is not None:
                self._renewable.renew()
            return advice(self._endpoint, bucket, refusal.answer, self._keys_from)
        except (Unavailable, ValueError, MinioException, urllib3.exceptions.HTTPError, ElementTree.ParseError):
            return None
        return ""

    @property
    def date(self) -> str | None:
        """The store's time in its last answer to this thread, without GETs; None if missing."""
        return _date(self._http.date)

    def close(self) -> None:
        """Close the open connections."""
        self._http.clear()

    def _read(
        self, bucket: str, key: str, version_id: str | None, etag: str | None, max_bytes: int, first_bytes: int
    ) -> StoredObject:
        wanted: DictType = {"If-Match": f'"{etag}"'} if etag else {}
        response = self._client.get_object(
            bucket, key, length=first_bytes, version_id=version_id, request_headers=wanted
        )
        try:
            if response.status != 200 and not (first_bytes and response.status == 206):  # a part of it, or nothing
                raise S3Refusal(S3Answer(response.status))
            found = _bare(response.headers.get("etag"))
            if etag and found != etag:  # some stores do not know If-Match
                raise Superseded("the object has another etag than the event names")
            modified, date = _last_modified(response), _date(response.headers.get("date"))
            body, rest = self._body(response, max_bytes, first_bytes)
            return StoredObject(
                body=body,
                etag=found or "",
                version_id=version_or_none(response.headers.get("x-amz-version-id")),
                last_modified=modified if date is None else min(modified, date),  # RFC 9110: never later than that
                date=date,
                rest=rest,
            )
        finally:
            let_go(response)

    def _body(self, response: BaseHTTPResponse, max_bytes: int, first_bytes: int) -> tuple[bytes, int]:
        """The stored bytes, and how many more there are.

        A Content-Encoding is not undone: etag and size are of these.
        """
        size = response.length_remaining or 0
        whole = size
        if response.status == 206:
            found = _FIRST_RANGE.fullmatch(response.headers.get("content-range", ""))
            if found is None:
                raise Unavailable("s3", "an answer with other bytes than the first", fault="refused")
            whole = int(found[1])
        if first_bytes and whole > first_bytes:
            body = _room(first_bytes)
            while body.tell() < first_bytes and (chunk := self._http.read_chunk(response, first_bytes - body.tell())):
                body.write(chunk)
            body.truncate()
            return body.getvalue(), whole - body.tell()
        if size > max_bytes:
            raise LargerThanReserved(size)
        body = _room(size)
        while chunk := self._http.read_chunk(response, min(_CHUNK, max_bytes + 1 - body.tell())):
            body.write(chunk)
            if body.tell() > max_bytes:
                raise LargerThanReserved(None)
        if not body.tell():
            raise _empty()
        body.truncate()
        return body.getvalue(), 0

    def _look(self, bucket: str, key: str) -> ObjectVersion:
        try:
            found = self._client.stat_object(bucket, key)
            modified = _rfc3339(found.last_modified) if found.last_modified is not None else None
            return ObjectVersion(_bare(found.etag) or "", version_or_none(found.version_id), modified)
        except S3Refusal as refusal:
            if refusal.answer.status >= 500:
                raise
        # Answers to HEAD have no body, and so no word on why: is this object missing, or its bucket, or our rights?
        response = self._client.get_object(bucket, key)
        let_go(response)  # it is there after all; its bytes are not read
        etag, version_id = response.headers.get("etag"), response.headers.get("x-amz-version-id")
        return ObjectVersion(_bare(etag) or "", version_or_none(version_id), _last_modified(response))

    def _page(self, bucket: str, prefix: str, start_after: str) -> Sequence[ListedObject]:
        entries = self._client.list_objects(bucket, prefix, recursive=True, start_after=start_after or None)
        # Each is read before the next request, should the store list fewer at once.
        return [_listed(entry, self.date) for entry in itertools.islice(entries, _PAGE)]

    def _list_one(self, bucket: str) -> None:
        """List one object; raises the client's errors."""
        next(iter(self._client.list_objects(bucket, recursive=True)), None)

    def _refused(self, bucket: str, answer: S3Answer) -> TagstreamError:
        found = meaning(answer)
        if found == "gone":
            return Gone("no such object", _date(answer.date))
        if found == "superseded":
            return Superseded("the object has another etag than the event names")
        if answer.status == _NO_SUCH_RANGE:
            return _empty()
        said = advice(self._endpoint, bucket, answer, self._keys_from)
        if answer.code == TOO_SKEWED and self._client.take_time_of(answer):
            return _Passing(answer.said, fault="access", advice=said)
        if found == "service":
            return _Passing(answer.said, advice=said)
        if answer.code == WRONG_SIGNATURE and not self._refuses_us(bucket):
            found = "refused"
        if found == "access" and self._renewable is not None:
            self._renewable.renew()
        kind = BucketGone if answer.code == "NoSuchBucket" else Unavailable
        return kind("s3", answer.said, fault=found, advice=said)

    def _refuses_us(self, bucket: str) -> bool:
        """Whether a key of ours is refused too: gateways that rewrite odd keys break their signatures."""
        try:
            with self._http.within(_CHECK_S):
                let_go(self._client.get_object(bucket, _OWN_KEY))
        except S3Refusal as refusal:
            return meaning(refusal.answer) == "access"
        except (urllib3.exceptions.HTTPError, MinioException, ElementTree.ParseError):
            pass
        return False

    def _patiently(
        self, bucket: str, call: Callable[[], Answer], retry_s: float | None = None, until: float | None = None
    ) -> Answer:
        """The call's answer; passing failures are retried, and the client's exceptions are mapped to ours.

        Args:
            until: the deadline of all tries; None: each has a command's own.
        """

        def once() -> Answer:
            try:
                with self._http.within(self._command_s if until is None else until - time.monotonic()):
                    return call()
            except S3Refusal as refusal:
                raise self._refused(bucket, refusal.answer) from refusal
            except urllib3.exceptions.ReadTimeoutError as error:
                raise _Passing(_words(error), fault="too-slow") from error
            except (urllib3.exceptions.HTTPError, MinioException, ElementTree.ParseError) as error:
                raise _Passing(_words(error), advice=f"{self._endpoint}: {_REMEDY}") from error
            except ValueError as error:  # the client does not send it; other objects show where the fault is
                raise Unavailable("s3", f"the client failed: {type(error).__name__}", fault="refused") from error

        retrying = Retrying(
            retry=retry_if_exception_type(_Passing),
            stop=stop_before_delay(self._retry_s if retry_s is None else retry_s),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            before_sleep=lambda _: metrics.RETRIES.add(dependency="s3"),
            reraise=True,
        )
        return retrying(once)


def _check_names(bucket: str, key: str, version_id: str | None, etag: str | None) -> None:
    """Reject names that no client can request: the event's fault."""
    try:
        check_bucket_name(bucket)
        check_object_name(key)
        f"{key}{version_id}".encode()
    except ValueError as error:  # "." and ".." as parts of a key, some buckets' names, half of a surrogate pair
        raise Rejected("fetch", "unreadable", f"no client can ask for this name: {error}") from error
    if etag and not _ETAG.fullmatch(etag):
        raise Rejected("fetch", "unreadable", "its etag is invalid: only visible ASCII characters are allowed")


def _empty() -> Rejected:
    return Rejected("fetch", "empty-object", "the object has no bytes")


def _words(error: Exception) -> str:
    """The fault below HTTP, without object addresses, keys or signatures."""
    match error:
        case urllib3.exceptions.NewConnectionError() | urllib3.exceptions.ConnectTimeoutError():
            return f"no connection ({error.__cause__ or 'timed out'})"
        case urllib3.exceptions.TimeoutError() | urllib3.exceptions.EmptyPoolError():
            return "no whole answer in time"
        case urllib3.exceptions.SSLError():
            return f"TLS failed ({error.__cause__ or error})"
        case TooLargeAnswer():
            return str(error)
        case urllib3.exceptions.ProtocolError():
            return "the connection broke"
        case _:
            return type(error).__name__


def _room(size: int) -> io.BytesIO:
    """A buffer of that size, which needs no copies to grow; 0: size not known."""
    body = io.BytesIO()
    if size:
        body.seek(size - 1)
        body.write(b"\0")
        body.seek(0)
    return body


def _listed(entry: MinioObject, date: str | None) -> ListedObject:
    modified = entry.last_modified or datetime.fromtimestamp(0, UTC)
    return ListedObject(entry.object_name or "", entry.size or 0, _bare(entry.etag) or "", _rfc3339(modified), date)


def _last_modified(response: BaseHTTPResponse) -> str:
    try:
        return _rfc3339(parsedate_to_datetime(response.headers.get("last-modified", "")))
    except (ValueError, OverflowError) as error:
        raise Unavailable(
            "s3",
            "an answer without a Last-Modified date",
            fault="refused",
            advice="the store sends no Last-Modified date: is TAGSTREAM_S3_ENDPOINT an S3 store?",
        ) from error


def _date(said: str | None) -> str | None:
    """An answer's Date; None if it is missing or unreadable."""
    try:
        return _rfc3339(parsedate_to_datetime(said or ""))
    except (ValueError, OverflowError):
        return None


def _rfc3339(moment: datetime) -> str:
    """RFC 3339 with a four-digit year, which `strftime` lacks before 1000."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _bare(etag: str | None) -> str | None:
    """An etag without quotes or the mark of a weak one."""
    return etag.removeprefix("W/").strip('"') if etag else None
