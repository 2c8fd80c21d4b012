"""The object store's client against misbehaving servers."""

import gzip
import re
import socket
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.loopback import Answer, Loopback, loopback, silence
from tests.support.waiting import bounded, eventually
from workers import metrics
from workers.backends.s3.store import FoundObject, MinioObjectStore
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

DATE = "Last-Modified: Wed, 25 Nov 2026 01:02:03 GMT"
SAID = "Date: Wed, 25 Nov 2026 01:02:04 GMT"
ETAG = 'ETag: "e7a6"'


def message(status: str, *headers: str, body: bytes = b"", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body) if length is None else length}", "", ""]
    return "\r\n".join(lines).encode() + body


def fault(status: str, code: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message><Key>secret-key</Key></Error>".encode()
    return message(status, "Content-Type: application/xml", body=body)


GOOD = message("200 OK", ETAG, DATE, body=b"image")
SLOW_DOWN = fault("503 Slow Down", "SlowDown")
NOT_FOUND = fault("404 Not Found", "NoSuchKey")


def says(*answers: bytes) -> Answer:
    """Gives these answers one after the other, and the last one again and again."""
    waiting = iter(answers)
    last = answers[-1]
    return lambda connection, _: connection.sendall(next(waiting, last))


def store_of(server: Loopback, *, retry_s: float = 2.0, connections: int = 2) -> MinioObjectStore:
    return MinioObjectStore(
        f"http://127.0.0.1:{server.port}", "key", "secret", "us-east-1", connections=connections, retry_s=retry_s
    )


def get(
    answer: Answer, *, etag: str | None = None, max_bytes: int = 1000, deadline_s: float = 5.0, retry_s: float = 2.0
) -> StoredObject:
    with loopback(answer) as server:
        store = store_of(server, retry_s=retry_s)
        return store.get("bucket", "secret-key", version_id=None, etag=etag, max_bytes=max_bytes, deadline_s=deadline_s)


@pytest.fixture
def retries(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    counted: list[object] = []
    monkeypatch.setattr(metrics.RETRIES, "add", lambda *_, **labels: counted.append(labels))
    return counted


def first_bytes(answer: Answer, retry_s: float = 2.0) -> StoredObject:
    with loopback(answer) as server:
        return store_of(server, retry_s=retry_s).get(
            *("bucket", "k"), version_id=None, etag=None, max_bytes=9, deadline_s=5, first_bytes=4, patient=False
        )


@pytest.mark.parametrize(
    "answer",
    [
        message("206 Partial Content", ETAG, DATE, "Content-Range: bytes 0-3/999", body=b"imag"),
        message("206 Partial Content", ETAG, DATE, "Content-Range: bytes 0-999/999", body=b"image", length=999),
        message("200 OK", ETAG, DATE, body=b"image", length=999),  # it knows no ranges
    ],
)
def test_no_more_than_the_first_bytes_are_read_whatever_the_store_sends(answer: bytes) -> None:
    stored = first_bytes(says(answer))
    assert (stored.body, stored.rest) == (b"imag", 995)


@pytest.mark.parametrize("said", ["", "bytes 4-7/999", "bytes 0-3/*", f"bytes 0-3/{'9' * 30}"])
def test_bytes_from_elsewhere_in_the_object_are_not_taken_for_its_first(said: str) -> None:
    with pytest.raises(Unavailable):
        first_bytes(says(message("206 Partial Content", ETAG, DATE, f"Content-Range: {said}", body=b"imag")))
    with pytest.raises(Unavailable):
        get(says(message("206 Partial Content", ETAG, DATE, "Content-Range: bytes 0-4/9", body=b"image")))


def test_without_patience_a_failure_is_final(retries: list[object]) -> None:
    with pytest.raises(Unavailable):
        first_bytes(says(SLOW_DOWN, GOOD))
    assert not retries


@pytest.mark.parametrize(("keys_from", "signed"), [("a file", True), ("", False)])
def test_a_link_is_an_attachment_where_it_is_signed(keys_from: str, signed: bool) -> None:
    keys = ("key", "secret") if keys_from else ("", "")
    store = MinioObjectStore("http://127.0.0.1:9", *keys, "us-east-1", keys_from=keys_from)
    link = store.link("bucket", "a/b c.jpg", version_id="v1", file_name='"\r\nb c.jpg', seconds=300)
    assert link.startswith("http://127.0.0.1:9/bucket/a/b%20c.jpg?")
    asked = parse_qs(urlsplit(link).query)
    assert asked["versionId"] == ["v1"]
    assert ("X-Amz-Signature" in asked) == signed
    said = "attachment; filename=\"_b_c.jpg\"; filename*=UTF-8''%22%EF%BF%BD%EF%BF%BDb%20c.jpg"
    assert asked.get("response-content-disposition", []) == ([said] if signed else [])


def test_an_etag_is_sent_in_quotes_and_the_dates_come_in_utc() -> None:
    with loopback(says(GOOD)) as server:
        stored = store_of(server).get("bucket", "k", version_id=None, etag="e7a6", max_bytes=9, deadline_s=5)
        request = b"".join(server.received)
    assert b'if-match: "e7a6"' in request.lower()
    assert b"accept-encoding: identity" in request.lower(), "nothing on the way is asked to compress it"
    assert stored == StoredObject(b"image", "e7a6", None, "2026-11-25T01:02:03Z")


@pytest.mark.parametrize(
    ("said", "date", "modified"),
    [
        ("Wed, 25 Nov 2026 01:02:03 GMT", "2026-11-25T01:02:03Z", "2026-11-25T01:02:03Z"),
        ("Wed, 25 Nov 2026 02:02:04 +0100", "2026-11-25T01:02:04Z", "2026-11-25T01:02:03Z"),
        ("Wed, 25 Nov 2026 01:02:02 GMT", "2026-11-25T01:02:02Z", "2026-11-25T01:02:02Z"),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None, "2026-11-25T01:02:03Z"),
        ("yesterday", None, "2026-11-25T01:02:03Z"),
    ],
)
def test_an_answers_date_comes_out_and_no_object_was_modified_after_it(
    said: str, date: str | None, modified: str
) -> None:
    stored = get(says(message("200 OK", ETAG, DATE, f"Date: {said}", body=b"x")))
    assert (stored.date, stored.last_modified) == (date, modified)


@pytest.mark.parametrize("year", ["0999", "1970", "9999"])
def test_any_year_has_four_digits(year: str) -> None:
    date = f"Last-Modified: Fri, 01 Jan {year} 00:00:00 GMT"
    assert get(says(message("200 OK", ETAG, date, body=b"x"))).last_modified == f"{year}-01-01T00:00:00Z"


def test_a_store_that_does_not_know_if_match_is_caught_by_its_own_etag() -> None:
    with pytest.raises(Superseded):
        get(says(GOOD), etag="another")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (NOT_FOUND, Gone),
        (fault("404 Not Found", "NoSuchVersion"), Gone),
        (message("405 Method Not Allowed", "Content-Type: application/xml", "x-amz-delete-marker: true"), Gone),
        (fault("405 Method Not Allowed", "MethodNotAllowed"), Gone),
        (
            message(
                "400 Bad Request", body=b"<Error><Code>InvalidArgument</Code><Message>Invalid version id</Message>"
            ),
            Gone,
        ),
        (fault("412 Precondition Failed", "PreconditionFailed"), Superseded),
        (message("412 Precondition Failed"), Superseded),
    ],
)
def test_answers_about_the_object_are_the_objects(answer: bytes, error: type[TagstreamError]) -> None:
    with pytest.raises(error) as raised:
        get(says(answer))
    assert "secret-key" not in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "blamed"),
    [
        (fault("403 Forbidden", "AccessDenied"), "forbidden"),
        (message("403 Forbidden", "Content-Type: text/html", body=b"<html>a proxy's</html>"), "forbidden"),
        (fault("403 Forbidden", "ExpiredToken"), "access"),
        (fault("400 Bad Request", "NeverHeardOfIt"), "refused"),
        (message("404 Not Found", "Content-Type: text/html", body=b"a proxy's"), "refused"),
        (message("302 Found", "Location: http://example.com/"), "refused"),
        (message("304 Not Modified"), "refused"),
        (message("103 Early Hints"), "refused"),
        (message("204 No Content", ETAG, DATE), "refused"),
        (message("206 Partial Content", ETAG, DATE, body=b"pict"), "refused"),
        (message("200 OK", ETAG, body=b"no date"), "refused"),
        (message("200 OK", ETAG, "Last-Modified: Mon, 99 Jan 99999999999999999 00:00:00 GMT", body=b"x"), "refused"),
        (fault("403 Forbidden", "InvalidObjectState"), "object"),
        (fault("500 Internal Server Error", "InternalError"), "service"),
        (message("502 Bad Gateway", "Content-Type: text/html", body=b"a proxy's"), "service"),
        (SLOW_DOWN, "service"),
        (message("500 Oh No", "Content-Type: application/xml", body=b"not xml <"), "service"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "service"),
    ],
)
def test_the_code_of_an_answer_decides_its_cause(answer: bytes, blamed: Fault) -> None:
    with pytest.raises(Unavailable) as raised:
        get(says(answer), retry_s=0.1)
    assert (raised.value.dependency, raised.value.fault) == ("s3", blamed)
    assert "secret" not in str(raised.value)


def test_no_redirect_is_followed() -> None:
    with loopback(says(GOOD)) as elsewhere:
        there = message("307 Temporary Redirect", f"Location: http://127.0.0.1:{elsewhere.port}/bucket/k")
        with pytest.raises(Unavailable):
            get(says(there))
        assert elsewhere.accepted == 0


def test_a_refusal_that_breaks_off_is_judged_by_its_received_part() -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        body = b"<Error><Code>InvalidObjectState</Code>"
        connection.sendall(message("403 Forbidden", body=body, length=5_000_000_000))
        raise ConnectionAbortedError

    with pytest.raises(Unavailable) as raised:
        get(answer)
    assert (raised.value.fault, raised.value.detail) == ("object", "HTTP 403 InvalidObjectState")


def test_a_listing_larger_than_any_that_s3_defines_is_not_parsed() -> None:
    with loopback(says(message("200 OK", body=b"x" * 9_000_000))) as server, pytest.raises(Unavailable) as raised:
        list(store_of(server, retry_s=0.1).list("bucket"))
    assert "more than 8388608 bytes" in raised.value.detail


def test_pages_that_never_end_end_with_the_deadline() -> None:
    """Each page says that another follows, and names no next one."""
    with loopback(says(listing(truncated=True))) as server:
        endpoint = f"http://127.0.0.1:{server.port}"
        store = MinioObjectStore(endpoint, "key", "secret", "us-east-1", retry_s=0.1, command_s=0.1)
        with bounded(), pytest.raises(Unavailable):
            list(store.list("bucket"))


WRONG_TIME = fault("403 Forbidden", "RequestTimeTooSkewed").replace(
    b"\r\n", b"\r\nDate: Wed, 25 Nov 2020 01:02:03 GMT\r\n", 1
)


def test_a_store_with_another_time_is_asked_again_on_its_own_from_then_on() -> None:
    with loopback(says(WRONG_TIME, GOOD)) as server:
        store = store_of(server)
        for _ in range(2):
            store.get("bucket", "k", version_id=None, etag=None, max_bytes=9, deadline_s=5)
    ours, *theirs = [re.findall(rb"x-amz-date: (\d{8})", request, re.IGNORECASE)[0] for request in server.received]
    assert ours != b"20201125"
    assert theirs == [b"20201125"] * 2


def test_a_store_that_refuses_our_clock_for_ever_refuses_us() -> None:
    with pytest.raises(Unavailable) as raised:
        get(says(WRONG_TIME), retry_s=0.1)
    assert raised.value.fault == "access"
    assert "clock" in raised.value.advice


WRONG_SIGNATURE = fault("403 Forbidden", "SignatureDoesNotMatch")


@pytest.mark.parametrize(
    ("of_ours", "blamed"),
    [
        (WRONG_SIGNATURE, "access"),
        (fault("403 Forbidden", "InvalidAccessKeyId"), "access"),
        (NOT_FOUND, "refused"),
        (fault("403 Forbidden", "AccessDenied"), "refused"),
        (GOOD, "refused"),
        (b"", "refused"),
    ],
)
def test_a_wrong_signature_is_our_credentials_fault_if_a_name_of_our_own_meets_the_same(
    of_ours: bytes, blamed: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an event with a key that a gateway rewrites would turn the worker unready."""
    monkeypatch.setattr("workers.backends.s3.store._CHECK_S", 10.0 if of_ours else 0.1)
    with loopback(says(WRONG_SIGNATURE, of_ours)) as server:
        with pytest.raises(Unavailable) as raised:
            store_of(server).get("bucket", "a//k", version_id=None, etag=None, max_bytes=9, deadline_s=1)
        assert server.received[0].startswith(b"GET /bucket/a//k ")
        assert not server.received[1].startswith(b"GET /bucket/a//k ")
    assert raised.value.fault == blamed


def test_a_failure_that_passes_is_tried_again_and_counted(retries: list[object]) -> None:
    assert get(says(SLOW_DOWN, SLOW_DOWN, GOOD)).body == b"image"
    assert len(retries) == 2


@pytest.mark.parametrize(
    ("answer", "error"), [(fault("403 Forbidden", "AccessDenied"), Unavailable), (NOT_FOUND, Gone)]
)
def test_a_refusal_and_a_missing_object_are_not_requested_again(answer: bytes, error: type[TagstreamError]) -> None:
    """Whether an object that is gone is requested again is the pipeline's: it holds no thread meanwhile."""
    with loopback(says(answer)) as server:
        with pytest.raises(error):
            store_of(server).get("bucket", "k", version_id=None, etag=None, max_bytes=9, deadline_s=5)
        assert len(server.received) == 1


def test_trying_again_ends_with_its_deadline() -> None:
    with bounded(), pytest.raises(Unavailable):
        get(says(SLOW_DOWN), retry_s=100, deadline_s=0.2)


def test_a_connection_that_breaks_halfway_is_tried_again() -> None:
    halfway = iter([True])

    def answer(connection: socket.socket, _: bytes) -> None:
        if next(halfway, False):
            connection.sendall(message("200 OK", ETAG, DATE, body=b"pic", length=7))
            raise ConnectionAbortedError
        connection.sendall(GOOD)

    assert get(answer).body == b"image"


def drip(data: bytes, *, after: bytes = b"") -> Answer:
    """One byte each twentieth of a second, so that no single wait is long."""

    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(after)
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    return answer


@pytest.mark.slow
def test_a_store_that_sends_a_byte_at_a_time_does_not_evade_the_deadline() -> None:
    answer = drip(b"x" * 900, after=message("200 OK", ETAG, DATE, length=900))
    began = time.monotonic()
    with bounded(), pytest.raises(Unavailable, match="in time") as given_up:
        get(answer, deadline_s=0.8)
    assert given_up.value.fault == "too-slow"
    assert time.monotonic() - began > 0.6


def test_a_dripping_body_that_ends_in_time_is_read() -> None:
    assert get(drip(GOOD[-3:], after=GOOD[:-3]), deadline_s=5).body == b"image"


def test_waiting_for_a_free_connection_is_on_the_same_clock() -> None:
    with loopback(silence) as server:
        store = store_of(server, connections=1, retry_s=0.1)

        def occupy() -> None:
            with pytest.raises(Unavailable):
                read(store, 100)

        thread = threading.Thread(target=occupy)
        thread.start()
        eventually(lambda: server.received)
        with bounded(), pytest.raises(Unavailable):
            read(store, 0.1)
    thread.join()


def read(store: MinioObjectStore, deadline_s: float = 5.0, max_bytes: int = 1000) -> StoredObject:
    return store.get("bucket", "k", version_id=None, etag=None, max_bytes=max_bytes, deadline_s=deadline_s)


def chunked(body: bytes, *, encoding: str = "identity") -> bytes:
    head = f"HTTP/1.1 200 OK\r\n{ETAG}\r\n{DATE}\r\nContent-Encoding: {encoding}\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def test_an_object_may_have_just_the_bytes_that_are_reserved_for_it() -> None:
    """Every event that tells its object's size reserves no more."""
    for answer in (GOOD, chunked(b"image")):
        assert get(says(answer), max_bytes=5).body == b"image"
        with pytest.raises(LargerThanReserved):
            get(says(answer), max_bytes=4)


def test_a_chunked_object_has_the_chunks_bytes_whatever_length_is_announced_too() -> None:
    """Guard: the cut at the end of the received bytes; otherwise zeros would fill the rest."""
    both = chunked(b"image").replace(b"\r\n", b"\r\nContent-Length: 900\r\n", 1)
    assert get(says(both)).body == b"image"


def test_a_stores_size_of_a_too_large_object_is_believed_once() -> None:
    with pytest.raises(LargerThanReserved) as announced:
        get(says(message("200 OK", ETAG, DATE, body=b"x" * 5, length=5_000)))
    with pytest.raises(LargerThanReserved) as streamed:
        get(says(chunked(b"x" * 5_000)))
    assert (announced.value.size, streamed.value.size) == (5_000, None)


def test_an_endless_object_is_refused_while_it_streams() -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\n{ETAG}\r\n{DATE}\r\nConnection: close\r\n\r\n".encode())
        while True:
            connection.sendall(b"x" * 1000)

    with pytest.raises(LargerThanReserved):
        get(answer)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "nonsense"])
def test_an_object_is_read_as_stored_whatever_its_content_encoding_says(encoding: str) -> None:
    stored = gzip.compress(b"image")
    for body in (b"\xff\xd8\xff plain JPEG", stored):
        given = get(says(message("200 OK", ETAG, DATE, f"Content-Encoding: {encoding}", body=body)))
        assert given.body == body
    assert get(says(chunked(stored, encoding=encoding))).body == stored


@pytest.mark.parametrize(
    "said",
    [
        ["Content-Type: text/html; charset=\xff", "Content-Disposition: =?utf-8?b?/w==?=", "Content-Language: \x85"],
        ["Cache-Control: no-store", "Expires: never", "Content-Type: "],
        [f"x-amz-meta-{number}: {'=' * 20}" for number in range(80)],
        ["x-amz-meta-a: " + "\xe9" * 8000, "x-amz-meta-content-length: 9", "x-amz-meta-etag: other"],
    ],
    ids=["content headers of any bytes", "headers for caches", "much metadata", "long metadata"],
)
def test_headers_of_an_uploader_change_nothing_of_an_object(said: list[str]) -> None:
    head = message("200 OK", ETAG, DATE, body=b"image").replace(
        b"\r\n", "\r\n".join(["", *said, ""]).encode("latin-1"), 1
    )
    with loopback(says(head)) as server:
        store = store_of(server, connections=1)
        assert [read(store) for _ in range(2)] == [StoredObject(b"image", "e7a6", None, "2026-11-25T01:02:03Z")] * 2
        assert server.accepted == 1


@pytest.mark.parametrize(
    ("key", "etag"),
    [(key, None) for key in ("a/../b", "./a", "half \ud800 of a pair")]
    + [("k", etag) for etag in ("é", "日本", "a\r\nX-Header: b", "a\0", 'a"b', "a b", "e" * 2000)],
)
def test_a_key_or_an_etag_that_the_client_can_not_ask_for_is_the_objects_fault(key: str, etag: str | None) -> None:
    # Nothing listens there: not even a connection is tried.
    store = MinioObjectStore("http://127.0.0.1:1", "key", "secret", "us-east-1")
    with pytest.raises(Rejected, match="unreadable"):
        store.get("bucket", key, version_id=None, etag=etag, max_bytes=9, deadline_s=1)


def test_a_connection_is_kept_after_a_good_answer_and_after_an_error() -> None:
    with loopback(says(GOOD, NOT_FOUND, GOOD)) as server:
        store = store_of(server, connections=1)
        read(store)
        with pytest.raises(Gone):
            read(store)
        read(store)
        assert server.accepted == 1


@pytest.mark.parametrize(
    "bad",
    [
        message("200 OK", ETAG, DATE, body=b"x" * 5, length=5_000_000),
        message("200 OK", 'ETag: "other"', DATE, body=b"x" * 5, length=500),
        message("200 OK", ETAG, body=b"x"),
        message("200 OK", ETAG, DATE, body=b""),
    ],
)
def test_a_refused_answer_gives_its_connection_back(bad: bytes) -> None:
    with loopback(says(bad, bad, bad, GOOD)) as server:
        store = store_of(server, connections=1)
        for _ in range(3):
            with pytest.raises(TagstreamError):
                store.get("bucket", "k", version_id=None, etag="e7a6", max_bytes=1000, deadline_s=5)
        assert read(store, deadline_s=2).body == b"image"


def test_a_server_that_closed_a_kept_connection_costs_no_error() -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(GOOD)
        raise ConnectionAbortedError

    with loopback(answer) as server:
        store = store_of(server)
        assert [read(store).body for _ in range(3)] == [b"image"] * 3


def test_a_store_that_is_down_is_unavailable_within_the_time_to_try_again() -> None:
    store = MinioObjectStore("http://127.0.0.1:1", "key", "secret", "us-east-1", retry_s=0.1)
    with bounded(), pytest.raises(Unavailable, match="no connection") as raised:
        read(store, deadline_s=100)
    assert raised.value.advice.startswith("http://127.0.0.1:1: Is TAGSTREAM_S3_ENDPOINT right")


@pytest.mark.parametrize(
    ("answer", "error", "advice"),
    [
        (fault("404 Not Found", "NoSuchBucket"), Misconfigured, "TAGSTREAM_BUCKETS"),
        (fault("403 Forbidden", "InvalidAccessKeyId"), Misconfigured, "TAGSTREAM_S3_ACCESS_KEY"),
        (fault("403 Forbidden", "SignatureDoesNotMatch"), Misconfigured, "TAGSTREAM_S3_SECRET_KEY"),
        (fault("403 Forbidden", "AccessDenied"), Misconfigured, "s3:ListBucket"),
        (fault("403 Forbidden", "RequestTimeTooSkewed"), Misconfigured, "clock"),
        (fault("400 Bad Request", "AuthorizationHeaderMalformed"), Misconfigured, "TAGSTREAM_S3_REGION"),
        (fault("400 Bad Request", "Strange"), Misconfigured, "Strange"),
        (message("200 OK", "Content-Type: text/html", body=b"<html>"), Unavailable, "TAGSTREAM_S3_ENDPOINT"),
        (message("404 Not Found", "Content-Type: text/html", body=b"<html>"), Unavailable, "TAGSTREAM_S3_ENDPOINT"),
        (SLOW_DOWN, Unavailable, "SlowDown"),
    ],
)
def test_check_names_each_fault_with_its_remedy(answer: bytes, error: type[TagstreamError], advice: str) -> None:
    with loopback(says(answer)) as server, pytest.raises(error, match=advice) as raised:
        store_of(server).check("bucket")
    assert f"http://127.0.0.1:{server.port}" in str(raised.value)


def listing(*keys: str, truncated: bool = False, date: str = "") -> bytes:
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>7</Size><ETag>&quot;e7a6&quot;</ETag>"
        "<LastModified>2026-11-25T01:02:03.000Z</LastModified></Contents>"
        for key in keys
    )
    body = f"<ListBucketResult><Name>bucket</Name><IsTruncated>{str(truncated).lower()}</IsTruncated>{entries}"
    more = "<NextContinuationToken>t</NextContinuationToken></ListBucketResult>"
    return message("200 OK", "Content-Type: application/xml", f"Date: {date}", body=(body + more).encode())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (fault("403 Forbidden", "SignatureDoesNotMatch"), "correct TAGSTREAM_S3_ACCESS_KEY"),
        (fault("403 Forbidden", "InvalidAccessKeyId"), "correct TAGSTREAM_S3_ACCESS_KEY"),
        (fault("400 Bad Request", "ExpiredToken"), "the session token has expired"),
        (listing(), ""),
        (fault("403 Forbidden", "AccessDenied"), ""),  # it may not list
        (fault("404 Not Found", "NoSuchBucket"), ""),
        (SLOW_DOWN, None),
        (fault("403 Forbidden", "RequestTimeTooSkewed"), None),
        (message("403 Forbidden", body=b"<html>"), None),
    ],
)
def test_only_a_refused_key_signature_or_token_counts_as_refused_keys(answer: bytes, said: str | None) -> None:
    with loopback(says(answer)) as server:
        found = store_of(server).refused_keys("bucket")
    assert found == said or (found and said and said in found)


def test_an_unreachable_store_does_not_refuse_keys_and_does_not_accept_them() -> None:
    assert MinioObjectStore("http://127.0.0.1:1", "key", "secret").refused_keys("bucket") is None


def test_check_of_a_server_that_is_down_names_its_address() -> None:
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:1: no connection"):
        MinioObjectStore("http://127.0.0.1:1", "key", "secret").check("bucket")


def test_the_region_is_asked_of_the_store_only_where_it_is_not_set() -> None:
    location = message("200 OK", body=b'<?xml version="1.0"?><LocationConstraint>eu-central-1</LocationConstraint>')
    with loopback(says(location, GOOD)) as server:
        read(MinioObjectStore(f"http://127.0.0.1:{server.port}", "key", "secret"))
        assert b"/eu-central-1/s3/" in server.received[-1]


def test_each_object_of_a_listing_has_the_date_of_the_answer_that_named_it() -> None:
    """Also where the store gives fewer at once than requested."""
    first = listing("a", "b", truncated=True, date="Wed, 25 Nov 2026 01:02:03 GMT")
    second = listing("c", date="Wed, 25 Nov 2026 01:02:04 GMT")
    with loopback(says(first, second, listing())) as server:
        found = [(entry.key, entry.date) for entry in store_of(server).list("bucket")]
    assert found == [("a", "2026-11-25T01:02:03Z"), ("b", "2026-11-25T01:02:03Z"), ("c", "2026-11-25T01:02:04Z")]


def test_a_stores_last_date_is_the_date_of_the_upload() -> None:
    dates = [message("200 OK", ETAG, f"Date: Wed, 25 Nov 2026 01:02:{second:02} GMT") for second in (3, 4)]
    with loopback(says(*dates)) as server:
        store = store_of(server)
        assert store.date is None
        for second in (3, 4):
            store.put("bucket", "k", b"image")
            assert store.date == f"2026-11-25T01:02:{second:02}Z"


def test_a_store_that_lists_the_same_page_again_and_again_is_an_error() -> None:
    """Guard: such a store ignores `start-after`, and `emit` sent its events again and again without an end."""
    with loopback(says(listing("a", "b"))) as server:
        found = store_of(server).list("bucket")
        assert [next(found).key, next(found).key] == ["a", "b"]
        with pytest.raises(Unavailable, match="lists objects twice"):
            next(found)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (message("200 OK", ETAG, SAID, "x-amz-meta-sha256: ab12", length=7), FoundObject(7, "e7a6", "ab12")),
        (message("200 OK", ETAG, SAID, length=7), FoundObject(7, "e7a6", "")),
        (message("404 Not Found"), None),
    ],
)
def test_a_listed_object_has_its_sha256_and_the_date_of_the_answer(answer: bytes, found: FoundObject | None) -> None:
    with loopback(says(answer)) as server:
        object_ = store_of(server).find("bucket", "k")
    assert object_ == found
    assert object_ is None or object_.date == "2026-11-25T01:02:04Z"


def test_a_store_that_refuses_to_look_is_not_taken_for_an_empty_one() -> None:
    with loopback(says(message("403 Forbidden"))) as server, pytest.raises(Unavailable):
        store_of(server).find("bucket", "k")


def test_keys_full_of_signs_of_equality_are_listed() -> None:
    """Guard: one who may upload could make a bucket impossible to list."""
    keys = [f"{number}{'=' * 1_000}" for number in range(200)]
    with loopback(says(listing(*keys), listing())) as server:
        assert [entry.key for entry in store_of(server).list("bucket")] == keys


def test_a_listing_continues_after_a_failed_page(retries: list[object]) -> None:
    with loopback(says(listing("a", "b"), SLOW_DOWN, listing("c"), listing())) as server:
        assert [entry.key for entry in store_of(server).list("bucket")] == ["a", "b", "c"]
        assert b"start-after=b" in server.received[1]
        assert b"start-after=b" in server.received[2]
    assert len(retries) == 1


def head(*answers: bytes) -> ObjectVersion:
    with loopback(says(*answers)) as server:
        return store_of(server).head("bucket", "k", deadline_s=5)


@pytest.mark.parametrize(
    ("missing", "error"), [("NoSuchKey", Gone), ("NoSuchVersion", Gone), ("NoSuchBucket", BucketGone)]
)
def test_a_missing_object_is_requested_once_more_because_a_head_does_not_explain_itself(
    missing: str, error: type[TagstreamError]
) -> None:
    with pytest.raises(error):
        head(message("404 Not Found"), fault("404 Not Found", missing))


def test_an_object_that_the_second_request_finds_is_not_read() -> None:
    endless_one = message("200 OK", ETAG, DATE, "x-amz-version-id: v7", length=5_000_000_000)
    with loopback(says(message("404 Not Found"), endless_one, GOOD)) as server:
        store = store_of(server, connections=1)
        assert store.head("bucket", "k", deadline_s=5) == ObjectVersion("e7a6", "v7", "2026-11-25T01:02:03Z")
        assert read(store, deadline_s=2).body == b"image", "its connection is given back"


def test_that_an_object_is_gone_comes_with_the_date_of_that_answer() -> None:
    with pytest.raises(Gone) as gone:
        head(message("404 Not Found"), NOT_FOUND.replace(b"\r\n", f"\r\n{SAID}\r\n".encode(), 1))
    assert gone.value.date == "2026-11-25T01:02:04Z"


@pytest.mark.parametrize(
    ("status", "code", "cause"),
    [
        ("403 Forbidden", "AccessDenied", "forbidden"),
        ("403 Forbidden", "InvalidAccessKeyId", "access"),
        ("400 Bad Request", "ExpiredToken", "access"),
        ("400 Bad Request", "InvalidRequest", "refused"),
    ],
)
def test_why_a_look_is_refused_is_asked_by_a_get_since_answers_to_head_have_no_code(
    status: str, code: str, cause: Fault
) -> None:
    with pytest.raises(Unavailable) as refused:
        head(message(status), fault(status, code))
    assert refused.value.fault == cause


def test_an_impossible_name_is_refused_without_a_request() -> None:
    store = MinioObjectStore("http://127.0.0.1:1", "key", "secret", "us-east-1")
    with pytest.raises(Rejected, match="unreadable"):
        store.head("bucket", "a/../b", deadline_s=1)
    with pytest.raises(Rejected, match="unreadable"):
        store.find("bucket", "a/../b")


def test_a_look_that_fails_is_tried_again_until_its_deadline() -> None:
    assert head(SLOW_DOWN, message("200 OK", ETAG, DATE)) == ObjectVersion("e7a6", None, "2026-11-25T01:02:03Z")
    with loopback(silence) as server, bounded(), pytest.raises(Unavailable):
        store_of(server, retry_s=100).head("bucket", "k", deadline_s=0.1)


def test_an_object_is_stored_with_its_sha256() -> None:
    with loopback(says(message("200 OK", ETAG))) as server:
        assert store_of(server).put("bucket", "k", b"image", sha256="ab12") == "e7a6"
        assert store_of(server).put("bucket", "k", b"image") == "e7a6"
        with_it, without = (request.lower() for request in server.received if request.startswith(b"PUT"))
    assert b"x-amz-meta-sha256: ab12\r\n" in with_it
    assert b"x-amz-meta" not in without


def test_a_bucket_is_made_unless_it_is_there() -> None:
    with loopback(says(listing())) as server:
        store_of(server).make_bucket("bucket")
        assert [request.partition(b" ")[0] for request in server.received] == [b"GET"]
    with loopback(says(fault("404 Not Found", "NoSuchBucket"), message("200 OK"))) as server:
        store_of(server).make_bucket("bucket")
        assert [request.partition(b" ")[0] for request in server.received] == [b"GET", b"PUT"]


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        (fault("403 Forbidden", "SignatureDoesNotMatch"), "TAGSTREAM_S3_SECRET_KEY"),
        (message("403 Forbidden"), "TAGSTREAM_S3_ENDPOINT"),
        (message("404 Not Found"), "TAGSTREAM_S3_ENDPOINT"),
    ],
)
def test_a_bucket_that_may_not_be_looked_at_is_not_made(answer: bytes, advice: str) -> None:
    """A listing says why: a HEAD has no room for a reason."""
    with loopback(says(answer)) as server:
        with pytest.raises(Unavailable) as raised:
            store_of(server).make_bucket("bucket")
        assert not any(request.startswith((b"HEAD", b"PUT")) for request in server.received)
    assert advice in raised.value.advice
