"""What servers answer, byte by byte: an object store over HTTP, and what lies in the cache's entries."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict
from weakref import WeakKeyDictionary

import numpy as np
import orjson

from schemas.enriched_image import CaptionText, ImageFacts, Source, Tag
from tests.fuzz.fuzzer import Bounds, Target, sentence
from tests.fuzz.parts import Parts
from tests.support.loopback import Loopback
from workers.backends.object_store import MinioObjectStore
from workers.errors import Gone, LargerThanReserved, Rejected, Superseded, Unavailable
from workers.pipeline import cache_entries as entries
from workers.types import Caption, Facts, LabelScores

LARGEST_OBJECT = 1 << 16
SECRET = "MARKED-SECRET"


class Says:
    """A server on loopback that answers whatever it is asked with the same bytes, and ends the connection."""

    def __init__(self) -> None:
        self._answer = b""
        self._server: Loopback | None = None

    def port(self, answer: bytes) -> int:
        self._answer = answer
        if self._server is None:
            self._server = Loopback(self._say)
        return self._server.port

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _say(self, connection: socket.socket, _: bytes) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(self._answer)
            connection.shutdown(socket.SHUT_WR)
        raise ConnectionAbortedError


class Keeps(Says):
    """The same over connections that are kept: a good answer first, then these bytes, then good ones again."""

    def __init__(self, good: bytes) -> None:
        super().__init__()
        self._good = good
        self._asked: WeakKeyDictionary[socket.socket, int] = WeakKeyDictionary()
        self.ends = False
        """Whether the connection ends behind these bytes."""
        self._lied = False

    def port(self, answer: bytes) -> int:
        self._lied = False
        return super().port(answer)

    def _say(self, connection: socket.socket, _: bytes) -> None:
        self._asked[connection] = self._asked.get(connection, 0) + 1
        hostile = self._asked[connection] == 2 and not self._lied
        self._lied |= hostile
        with contextlib.suppress(OSError):
            connection.sendall(self._answer if hostile else self._good)
        if hostile and self.ends:
            raise ConnectionAbortedError


# ---- the object store -------------------------------------------------------------------------------------------

_GOOD = (
    b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "e"\r\nLast-Modified: Fri, 02 Jan 2026 03:04:05 GMT\r\n'
    b"x-amz-version-id: v1\r\nContent-Type: image/jpeg\r\n\r\nhello"
)


def http_answers() -> Iterator[Parts]:
    """Status line and headers, and the body: two parts."""
    yield tuple(_GOOD.partition(b"\r\n\r\n")[::2])
    head = _GOOD.partition(b"\r\n\r\n")[0]
    yield (head.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"), b"5\r\nhello\r\n0\r\n\r\n")
    yield (head.replace(b"Content-Length: 5", b"Content-Encoding: gzip\r\nContent-Length: 5"), b"hello")
    yield (head.replace(b"Content-Length: 5\r\n", b""), b"hello")
    for status, code in ((403, b"AccessDenied"), (404, b"NoSuchKey"), (400, b"InvalidRequest"), (503, b"SlowDown")):
        xml = b"<?xml version='1.0'?><Error><Code>%b</Code><Message>m</Message><Resource>/b/k</Resource></Error>" % code
        lines = b"HTTP/1.1 %d No\r\nContent-Type: application/xml\r\nContent-Length: %d" % (status, len(xml))
        yield (lines, xml)
    yield (b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0", b"")
    yield (b"HTTP/1.1 412 No\r\nContent-Length: 0", b"")
    yield (b"HTTP/1.1 403 No\r\nContent-Type: text/plain\r\nContent-Length: 2", b"no")


_store_says = Says()


def got(parts: Parts) -> str:
    """An object of which an event can tell, or one of the port's errors; never more bytes than were asked for."""
    port = _store_says.port(parts[0] + b"\r\n\r\n" + b"".join(parts[1:]))
    store = MinioObjectStore(f"http://127.0.0.1:{port}", "key", SECRET, "us-east-1", retry_s=0.01)
    began = time.monotonic()
    try:
        return _one(store, 2.0)
    finally:
        store.close()
        assert time.monotonic() - began < 30, "the deadline is a wall clock"


def _one(store: MinioObjectStore, seconds: float) -> str:
    try:
        stored = store.get("bucket", "key", version_id=None, etag=None, max_bytes=LARGEST_OBJECT, deadline_s=seconds)
    except (Gone, LargerThanReserved, Superseded, Rejected, Unavailable) as error:
        sentence(error, SECRET)
        return f"{type(error).__name__} {error.reason}" if isinstance(error, Rejected) else type(error).__name__
    assert 0 < len(stored.body) <= LARGEST_OBJECT
    assert "\n" not in stored.etag + (stored.version_id or "")
    told = {"etag": stored.etag, "version_id": stored.version_id, "last_modified": stored.last_modified}
    Source.model_validate({"bucket": "bucket", "key": "key", "sha256": "0" * 64, **told})
    return "an object"


def kept_answers() -> Iterator[Parts]:
    """The same, and whether the connection ends behind them."""
    for answer in http_answers():
        yield (*answer, b"ends")
        yield (*answer, b"goes on")
    yield (*_GOOD.partition(b"\r\n\r\n")[::2], _GOOD, b"goes on")


_store_keeps = Keeps(_GOOD)


def got_again(parts: Parts) -> str:
    """As `got`, over a connection that is open. What came unasked is no answer to what is asked next."""
    _store_keeps.ends = parts[-1] == b"ends"
    port = _store_keeps.port(parts[0] + b"\r\n\r\n" + b"".join(parts[1:-1]))
    store = MinioObjectStore(f"http://127.0.0.1:{port}", "key", SECRET, "us-east-1", retry_s=1.0)
    try:
        assert _one(store, 2.0) == "an object"
        came = _one(store, 0.1)
        stored = store.get("bucket", "key", version_id=None, etag=None, max_bytes=LARGEST_OBJECT, deadline_s=2.0)
        assert stored.body == b"hello", "an answer that nothing asked for"
    finally:
        store.close()
    return came


def listings() -> Iterator[Parts]:
    entry = b"<Contents><Key>%b</Key><Size>7</Size><ETag>&quot;e&quot;</ETag><LastModified>%b</LastModified></Contents>"
    for key, date, more in ((b"a", b"2026-11-25T01:02:03.000Z", b"false"), (b"b%2Fc", b"yesterday", b"true")):
        xml = b"<?xml version='1.0'?><ListBucketResult><IsTruncated>%b</IsTruncated>%b</ListBucketResult>"
        xml %= (more, entry % (key, date) * 3)
        yield (b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d" % len(xml), xml)


def listed(parts: Parts) -> str:
    """A listing ends, with objects or with Unavailable."""
    port = _store_says.port(parts[0] + b"\r\n\r\n" + b"".join(parts[1:]))
    endpoint = f"http://127.0.0.1:{port}"
    store = MinioObjectStore(endpoint, "key", SECRET, "us-east-1", retry_s=0.01, command_s=2.0)
    try:
        found = list(itertools.islice(store.list("bucket"), 10_000))
    except Unavailable as error:
        sentence(error, SECRET)
        return "Unavailable"
    finally:
        store.close()
    assert len(found) < 10_000, "a listing without an end"
    return "some objects" if found else "none"


# ---- cache entries ----------------------------------------------------------------------------------------------

LABELS = 10
FACTS = Facts("a" * 64, "e", "v1", "2026-01-02T03:04:05Z", 1000, "jpeg", 40, 30, 3600)


def cached() -> Iterator[Parts]:
    """What kind of entry it is, and its bytes."""
    yield (b"facts", entries.pack_facts(FACTS))
    yield (b"facts", orjson.dumps({**asdict(FACTS), "version_id": None}))
    yield (b"caption", entries.pack_caption(Caption("a dog", -0.5, "beam")))
    yield (b"caption", entries.pack_caption(Caption("a dog", None, "template")))
    for count in (0, 1, LABELS):
        scores = LabelScores(np.arange(count, dtype=np.int32), np.linspace(0, 1, count).astype(np.float32))
        yield (b"scores", entries.pack_scores(scores))


def unpacked(parts: Parts) -> str:
    """A miss, or what the schema of the outcome takes."""
    kind, value = (*parts, b"", b"")[:2]
    match kind:
        case b"facts":
            facts = entries.unpack_facts(value)
            if facts is not None:
                ImageFacts(format=facts.format, width=facts.width, height=facts.height, bytes=facts.size)
                assert facts.decode_bytes >= 0
                return "facts"
        case b"caption":
            caption = entries.unpack_caption(value)
            if caption is not None:
                CaptionText(text=caption.text, score=caption.score, method=caption.method)
                return "a caption"
        case _:
            scores = entries.unpack_scores(value, LABELS)
            if scores is not None:
                assert (np.diff(scores.label_ids) > 0).all()
                for label, score in zip(scores.label_ids.tolist(), scores.scores.tolist(), strict=True):
                    Tag(name="x", score=score, label_id=label)
                return "scores"
    return "a miss"


_STORE = ("/workers/", "/minio/")
_NET = Bounds(seconds=1.0, seconds_per_mib=4.0, mib=48.0)

TARGETS = (
    Target("store-listings", listings, listed, watched=_STORE, bounds=_NET, close=_store_says.close),
    Target("cache-entries", cached, unpacked),
    Target("store-answers", http_answers, got, watched=("/workers/", "/minio/"), bounds=_NET, close=_store_says.close),
    Target("store-answers-kept", kept_answers, got_again, watched=_STORE, bounds=_NET, close=_store_keeps.close),
)
