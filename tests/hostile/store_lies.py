"""Answers of an object store that lie in every field that they have, each told of an object of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.lying_store import Answer, Lie, is_empty, pours, resets, says

_MIB = bytes(1 << 20)


def raw(*pieces: bytes, every_s: float = 0.0) -> Lie:
    """These bytes in the place of an answer, and the end of the connection."""

    def lie(answer: Answer) -> None:
        answer.handler.close_connection = True
        for piece in pieces:
            answer.handler.wfile.write(piece)
            answer.handler.wfile.flush()
            time.sleep(every_s)

    return lie


def with_headers(**changed: str | None) -> Lie:
    """The true body under other headers; None takes one away."""

    def lie(answer: Answer) -> None:
        names = {name.replace("_", "-").lower(): value for name, value in changed.items()}
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in names}
        kept = {name: value for name, value in kept.items() if name.lower() != "content-length"}
        told = {"content-length": str(len(answer.body))} | {k: v for k, v in names.items() if v is not None}
        if names.get("content-length", "") is None:
            del told["content-length"]
        lines = "".join(f"{name}: {value}\r\n" for name, value in (kept | told).items())
        raw(b"HTTP/1.1 200 OK\r\n" + lines.encode("latin-1", "replace") + b"\r\n", answer.body)(answer)

    return lie


def error(status: int, code: str, more: str = "") -> Lie:
    """As S3 says it, with this code."""
    xml = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} {more}</Message></Error>".encode()
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nContent-Length: {len(xml)}\r\n\r\n"
    return raw(head.encode() + xml)


def for_ever(head: bytes, piece: bytes, every_s: float = 0.0) -> Lie:
    """A beginning and then the same again and again, until the other side has had enough."""

    def lie(answer: Answer) -> None:
        answer.handler.close_connection = True
        answer.handler.wfile.write(head)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            answer.handler.wfile.write(piece)
            answer.handler.wfile.flush()
            time.sleep(every_s)

    return lie


def moves_to(status: int, url: Callable[[], str]) -> Lie:
    def lie(answer: Answer) -> None:
        raw(f"HTTP/1.1 {status} Moved\r\nLocation: {url()}\r\nContent-Length: 0\r\n\r\n".encode())(answer)

    return lie


_XML = b"HTTP/1.1 400 No\r\nContent-Type: application/xml\r\nConnection: close\r\n\r\n"
_OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nLast-Modified: Fri, 02 Jan 2026 03:04:05 GMT\r\n"
_LAUGHS = "<?xml version='1.0'?><!DOCTYPE l [<!ENTITY a '" + "x" * 1000 + "'>" + "".join(
    f"<!ENTITY {name} '{f'&{before};' * 10}'>" for before, name in ("ab", "bc", "cd", "de", "ef")
) + "]><Error><Code>&f;</Code></Error>"  # fmt: skip

CODES = (
    (400, "InvalidRequest"), (400, "InvalidArgument"), (400, "KeyTooLongError"), (400, "BadDigest"),
    (400, "IncompleteBody"), (400, "InvalidDigest"), (400, "MalformedXML"), (400, "RequestTimeout"),
    (400, "UnsupportedArgument"), (403, "InvalidObjectState"), (403, "AllAccessDisabled"), (403, "NotSignedUp"),
    (404, "NoSuchKey"), (404, "NoSuchVersion"), (404, "NoSuchUpload"), (405, "MethodNotAllowed"),
    (409, "OperationAborted"), (409, "InvalidBucketState"), (411, "MissingContentLength"), (412, "PreconditionFailed"),
    (416, "InvalidRange"), (429, "TooManyRequests"), (500, "InternalError"), (501, "NotImplemented"),
    (503, "SlowDown"), (503, "ServiceUnavailable"), (400, "NoSuchThingAtAll"), (418, "Teapot"),
)  # fmt: skip


def lies(elsewhere: Callable[[], str]) -> dict[str, Lie]:
    """By a name that is fit for a key.

    Args:
        elsewhere: the address of a server to which no request may be sent.
    """
    found: dict[str, Lie] = {f"code-{status}-{code}": error(status, code) for status, code in CODES}
    found |= {
        f"status-{status}": says(status) for status in (203, 206, 400, 402, 404, 408, 409, 410, 418, 451, 500, 599)
    }
    found |= {f"moved-{status}": moves_to(status, elsewhere) for status in (301, 302, 303, 307, 308)}
    found |= {
        "empty": is_empty,
        "poured": pours(4 << 20),
        "reset": resets(1_000),
        "no-etag": with_headers(etag=None),
        "huge-etag": with_headers(etag='"' + "e" * 60_000 + '"'),
        "odd-etag": with_headers(etag='"\x07\xff"'),
        "no-date": with_headers(last_modified=None),
        "odd-date": with_headers(last_modified="yesterday"),
        "year-0": with_headers(last_modified="Sat, 01 Jan 0000 00:00:00 GMT"),
        "huge-version": with_headers(x_amz_version_id="v" * 60_000),
        "negative-length": with_headers(content_length="-1"),
        "huge-length": with_headers(content_length="9" * 30),
        "long-length": with_headers(content_length="100000"),
        "short-length": with_headers(content_length="10"),
        "no-length": with_headers(content_length=None),
        "gzip": with_headers(content_encoding="gzip"),
        "chunks": with_headers(transfer_encoding="chunked"),
        "no-status": raw(b"hello\r\n\r\n"),
        "nothing": raw(b""),
        "http-09": raw(b"<html>hello</html>"),
        "many-headers": raw(_OK, b"X-A: b\r\n" * 5_000, b"\r\nhello"),
        "long-header": raw(_OK, b"X-A: " + b"b" * (1 << 20) + b"\r\n\r\nhello"),
        "continues": for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.001),
        "headers-for-ever": for_ever(_OK, b"X-A: b\r\n", 0.01),
        "header-a-second": for_ever(_OK, b"X", 1.0),
        "byte-a-second": for_ever(_OK + b'ETag: "e"\r\n\r\n', b"\xff", 1.0),
        "body-for-ever": for_ever(_OK + b'ETag: "e"\r\n\r\n', _MIB),
        "chunk-of-exabytes": raw(_OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\nx"),
        "chunk-line-for-ever": for_ever(_OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a" * 65_536),
        "chunks-of-a-byte": for_ever(_OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000),
        "error-for-ever": for_ever(_XML, _MIB.replace(b"\0", b" ")),
        "error-a-byte-a-second": for_ever(_XML, b" ", 1.0),
        "error-of-laughs": raw(_XML + _LAUGHS.encode()),
        "error-deep": raw(_XML + b"<a>" * 100_000),
        "error-code-huge": error(400, "C" * 500_000),
        "error-code-odd": error(400, "&#27;[2J&#10;x"),
        "silent": for_ever(b"", b"", 1.0),
    }  # fmt: skip
    return found
