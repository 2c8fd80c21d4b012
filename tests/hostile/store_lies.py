"""Answers of a failing store, or of a gateway in front of it; each is about an object of its own."""

from collections.abc import Callable

from tests.support.lying_store import Answer, Lie, drips, errs, is_empty, pours, resets, says, says_also, takes

CODES = (
    (400, "InvalidRequest"), (400, "InvalidArgument"), (400, "KeyTooLongError"), (400, "BadDigest"),
    (400, "IncompleteBody"), (400, "InvalidDigest"), (400, "MalformedXML"), (400, "RequestTimeout"),
    (400, "UnsupportedArgument"), (403, "InvalidObjectState"), (403, "AllAccessDisabled"), (403, "NotSignedUp"),
    (404, "NoSuchKey"), (404, "NoSuchVersion"), (404, "NoSuchUpload"), (405, "MethodNotAllowed"),
    (409, "OperationAborted"), (409, "InvalidBucketState"), (411, "MissingContentLength"), (412, "PreconditionFailed"),
    (416, "InvalidRange"), (429, "TooManyRequests"), (500, "InternalError"), (501, "NotImplemented"),
    (503, "SlowDown"), (503, "ServiceUnavailable"), (400, "NoSuchThingAtAll"), (418, "Teapot"),
)  # fmt: skip
STATUSES = (203, 206, 400, 402, 404, 408, 409, 410, 418, 451, 500, 599)


def moves_to(status: int, url: Callable[[], str]) -> Lie:
    def lie(answer: Answer) -> None:
        answer.status, answer.headers, answer.body = status, {"Location": url()}, b""
        answer.tell()

    return lie


def lies(elsewhere: Callable[[], str]) -> dict[str, Lie]:
    """By a name that is fit for a key."""
    found = {f"code-{status}-{code}": errs(status, code) for status, code in CODES}
    found |= {f"status-{status}": says(status) for status in STATUSES}
    found |= {f"moved-{status}": moves_to(status, elsewhere) for status in (301, 302, 303, 307, 308)}
    return found | {
        "empty": is_empty,
        "poured": pours(4 << 20),
        "reset": resets(1_000),
        "no-etag": says_also("ETag", ""),
        "no-date": says_also("Last-Modified", ""),
        "odd-date": says_also("Last-Modified", "yesterday"),
        "gzip": says_also("Content-Encoding", "gzip"),
        "byte-a-second": drips(lambda: True),
        "silent": takes(60.0),
    }
