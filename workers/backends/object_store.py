"""The object store over S3's protocol: AWS, MinIO, SeaweedFS and others. The only module that knows minio."""

from __future__ import annotations

import functools
import io
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urlsplit
from xml.etree import ElementTree

import certifi
import urllib3
from minio.datatypes import Object as MinioObject
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_fixed,
    wait_random_exponential,
)
from urllib3.response import BaseHTTPResponse

from workers import metrics
from workers.backends.s3_client import TOO_SKEWED, PunctualMinio
from workers.backends.s3_http import ClockedPool
from workers.errors import Gone, Misconfigured, Rejected, Superseded, TagstreamError, Unavailable
from workers.vocabulary import StoredObject

Answer = TypeVar("Answer")

_CHUNK = 256 * 1024
_PAGE = 1000
_GONE_TRIES = 3
_GONE_WAIT_S = 0.1
_CHECK_S = 5.0
_NAMES_NOTHING = frozenset({"NoSuchKey", "NoSuchVersion", "KeyTooLongError", "XMinioInvalidObjectName"})
"""Codes for an object that is not there, or that never can be under such a name. An ill-formed version id is one too,
but it has no code of its own."""
_REFUSES_US = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "InvalidSecurity", TOO_SKEWED}
)
"""Codes of a refusal that is about whoever asks, whatever object it is asked for."""
_DELETE_MARKER = 405
"""What S3 answers when the version that is asked for is a delete marker."""


class _Passing(Unavailable):
    """Unavailable in a way that may pass within seconds: worth another try."""

    def __init__(self, detail: str, *, too_slow: bool = False) -> None:
        super().__init__("s3", detail, too_slow=too_slow)


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One line of a bucket's listing. `etag` without quotes; `last_modified` in RFC 3339, UTC."""

    key: str
    size: int
    etag: str
    last_modified: str


class MinioObjectStore:
    """`ports.ObjectStore`, and what the commands need besides. Thread-safe; not to be shared with child processes.

    Args:
        endpoint_url: `http://host:port` or `https://host`.
        access_key, secret_key: both empty: anonymous.
        region: empty: asked of the store, once a bucket.
        connections: how many may be open, one a thread that fetches.
        connect_s: for a connection to be made.
        retry_s: for how long passing failures (5xx, resets, timeouts) are tried again, inside a call's deadline.
        command_s: deadline of the calls that are not in the port.
    """

    def __init__(
        self,
        endpoint_url: str,
        access_key: str,
        secret_key: str,
        region: str = "",
        *,
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
            connections=connections,
            connect_s=connect_s,
            request_s=command_s,
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        )
        self._client = PunctualMinio(
            endpoint.netloc,
            access_key=access_key or None,
            secret_key=secret_key or None,
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
    ) -> StoredObject:
        until = time.monotonic() + deadline_s

        def once() -> StoredObject:
            with self._asking(until - time.monotonic()):
                return self._read(bucket, key, version_id, _bare(etag), max_bytes)

        return self._patiently(_until_surely_gone(once), min(self._retry_s, deadline_s))

    def list(self, bucket: str, prefix: str = "", start_after: str = "") -> Iterator[ListedObject]:
        """The bucket's objects whose keys begin with `prefix`, in key order, from the first after `start_after`.

        Pages are asked for while the iterator is read. Raises Unavailable.
        """
        while page := self._patiently(functools.partial(self._page, bucket, prefix, start_after), self._retry_s):
            yield from page
            start_after = page[-1].key

    def put(self, bucket: str, key: str, body: bytes, content_type: str = "application/octet-stream") -> str:
        """Store an object and answer its etag. Raises Unavailable."""

        def once() -> str:
            with self._asking(self._command_s):
                stored = self._client.put_object(bucket, key, io.BytesIO(body), len(body), content_type)
                return _bare(stored.etag) or ""

        return self._patiently(once, self._retry_s)

    def make_bucket(self, bucket: str) -> None:
        """Make the bucket unless it is there. Raises Unavailable."""

        def once() -> None:
            with self._asking(self._command_s):
                if not self._client.bucket_exists(bucket):
                    self._client.make_bucket(bucket)

        self._patiently(once, self._retry_s)

    def remove(self, bucket: str, key: str) -> None:
        """Remove an object; one that is not there is no error. Raises Unavailable."""

        def once() -> None:
            with self._asking(self._command_s):
                self._client.remove_object(bucket, key)

        self._patiently(once, self._retry_s)

    def check(self, bucket: str) -> None:
        """List one object of the bucket, without patience.

        Raises:
            Misconfigured: the settings are wrong; the text says which and how to mend it.
            Unavailable: no store answers, or it fails; the text says what was tried.
        """
        try:
            with self._http.within(_CHECK_S):
                next(iter(self._client.list_objects(bucket, recursive=True)), None)
        except S3Error as error:
            if error.response.status >= 500:
                raise Unavailable("s3", self._advice(bucket, error)) from error
            raise Misconfigured(self._advice(bucket, error)) from error
        except ValueError as error:
            raise Misconfigured(f"{bucket!r} can't be a bucket's name: correct TAGSTREAM_BUCKETS") from error
        except (MinioException, urllib3.exceptions.HTTPError, ElementTree.ParseError) as error:
            raise Unavailable(
                "s3", f"{self._endpoint}: {_words(error)}. Is TAGSTREAM_S3_ENDPOINT right, and the store running?"
            ) from error

    def close(self) -> None:
        """Close what is kept alive."""
        self._http.clear()

    def _read(self, bucket: str, key: str, version_id: str | None, etag: str | None, max_bytes: int) -> StoredObject:
        headers = {"If-Match": f'"{etag}"'} if etag else {}
        response = self._client.get_object(bucket, key, version_id=version_id, request_headers=dict(headers))
        try:
            found = _bare(response.headers.get("ETag"))
            if etag and found != etag:  # some stores do not know If-Match
                raise Superseded("the object has another etag than the event names")
            return StoredObject(
                body=_body(response, max_bytes),
                etag=found or "",
                version_id=response.headers.get("x-amz-version-id"),
                last_modified=_last_modified(response),
            )
        finally:
            response.close()
            response.release_conn()

    def _page(self, bucket: str, prefix: str, start_after: str) -> Sequence[ListedObject]:
        with self._asking(self._command_s):
            entries = self._client.list_objects(bucket, prefix, recursive=True, start_after=start_after or None)
            return [_listed(entry) for entry in itertools.islice(entries, _PAGE)]

    @contextmanager
    def _asking(self, seconds: float) -> Iterator[None]:
        """For what is asked inside: so long together, and with our errors."""
        with self._http.within(seconds), _mapped():
            try:
                yield
            except S3Error as error:
                if error.code == TOO_SKEWED and self._client.take_time_of(error):
                    raise _Passing("its clock and ours differ by minutes") from error
                raise

    def _patiently(self, call: Callable[[], Answer], seconds: float) -> Answer:
        return Retrying(
            retry=retry_if_exception_type(_Passing),
            stop=stop_before_delay(seconds),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            before_sleep=_count_retry,
            reraise=True,
        )(call)

    def _advice(self, bucket: str, error: S3Error) -> str:
        advice = {
            "NoSuchBucket": f"the bucket {bucket!r} does not exist: make it, or correct TAGSTREAM_BUCKETS",
            "InvalidAccessKeyId": "it does not know the access key: correct TAGSTREAM_S3_ACCESS_KEY",
            "SignatureDoesNotMatch": "the secret key does not fit the access key: correct TAGSTREAM_S3_SECRET_KEY",
            "AccessDenied": f"these credentials may not list {bucket!r}: allow them s3:GetObject and s3:ListBucket "
            "(without the latter an object that is gone looks like a forbidden one)",
            TOO_SKEWED: "its clock and ours differ by minutes: set the clock of this machine",
            "AuthorizationHeaderMalformed": "the bucket is in another region: correct TAGSTREAM_S3_REGION",
            "PermanentRedirect": "the bucket is in another region: correct TAGSTREAM_S3_REGION",
        }
        code = error.code or ""
        return f"{self._endpoint}: {advice.get(code, f'it answered {code}: {error.message}')}"


@contextmanager
def _mapped() -> Iterator[None]:
    """The one place where the client's exceptions become ours."""
    try:
        yield
    except S3Error as error:
        code = "NoSuchVersion" if "version id" in (error.message or "").lower() else error.code or ""
        raise _of_answer(error.response.status, code) from error
    except InvalidResponseError as error:  # an error without XML: from a proxy, or a store with manners of its own
        raise _of_answer(error._code, "NoSuchKey" if "NoSuchKey" in (error._body or "") else "") from error
    except ServerError as error:
        raise _of_answer(error.status_code, "") from error
    except urllib3.exceptions.ReadTimeoutError as error:
        raise _Passing(_words(error), too_slow=True) from error
    except (urllib3.exceptions.HTTPError, MinioException, ElementTree.ParseError) as error:
        raise _Passing(_words(error)) from error
    except ValueError as error:  # minio refuses "." and ".." as parts of a key, and some buckets' names
        raise Rejected("fetch", "unreadable", f"the client can't ask for this name: {error}") from error


def _of_answer(status: int, code: str) -> TagstreamError:
    said = f"HTTP {status} {code}".rstrip()
    if code in _NAMES_NOTHING or status == _DELETE_MARKER:
        return Gone("no such object")
    if status == 412:
        return Superseded("the object has another etag than the event names")
    if status in (401, 403):
        return Unavailable("s3", said, forbidden=code not in _REFUSES_US)
    if status in (408, 429) or status >= 500:
        return _Passing(said)
    return Unavailable("s3", said)


def _words(error: Exception) -> str:
    """What went wrong below HTTP, without addresses of Python objects, keys or signatures."""
    match error:
        case urllib3.exceptions.NewConnectionError() | urllib3.exceptions.ConnectTimeoutError():
            return f"no connection ({error.__cause__ or 'timed out'})"
        case urllib3.exceptions.TimeoutError() | urllib3.exceptions.EmptyPoolError():
            return "no whole answer in time"
        case urllib3.exceptions.SSLError():
            return f"TLS failed ({error.__cause__ or error})"
        case urllib3.exceptions.ProtocolError():
            return "the connection broke"
        case InvalidResponseError():
            return f"HTTP {error._code} that is not of an S3 store"
        case _:
            return type(error).__name__


def _until_surely_gone(call: Callable[[], Answer]) -> Callable[[], Answer]:
    """A store behind a gateway may not show a new object at once: ask a few times before believing that it is gone."""
    quick = Retrying(
        retry=retry_if_exception_type(Gone),
        stop=stop_after_attempt(_GONE_TRIES),
        wait=wait_fixed(_GONE_WAIT_S),
        before_sleep=_count_retry,
        reraise=True,
    )
    return lambda: quick(call)


def _count_retry(_: RetryCallState) -> None:
    metrics.RETRIES.add(neighbour="s3")


def _body(response: BaseHTTPResponse, max_bytes: int) -> bytes:
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise Rejected("fetch", "object-too-large", f"{announced} bytes, at most {max_bytes} are allowed")
    body = io.BytesIO()  # grows in place, and gives its bytes without a copy
    while chunk := response.read1(_CHUNK):
        body.write(chunk)
        if body.tell() > max_bytes:
            raise Rejected("fetch", "object-too-large", f"more than the {max_bytes} bytes that are allowed")
    if not body.tell():
        raise Rejected("fetch", "empty-object", "the object has no bytes")
    return body.getvalue()


def _listed(entry: MinioObject) -> ListedObject:
    modified = entry.last_modified or datetime.fromtimestamp(0, UTC)
    return ListedObject(entry.object_name or "", entry.size or 0, _bare(entry.etag) or "", _rfc3339(modified))


def _last_modified(response: BaseHTTPResponse) -> str:
    try:
        return _rfc3339(parsedate_to_datetime(response.headers["Last-Modified"]))
    except (KeyError, ValueError) as error:
        raise Unavailable("s3", "an answer without a Last-Modified date: is it an S3 store?") from error


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _bare(etag: str | None) -> str | None:
    """An etag without quotes or the mark of a weak one."""
    return etag.removeprefix("W/").strip('"') if etag else None
