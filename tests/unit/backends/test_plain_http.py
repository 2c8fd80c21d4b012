"""GETs of objects on connections that are open: what is sent, and when a connection can be used again.

How answers are read, whole, broken and hostile, tests/unit/backends/test_store.py shows for both kinds of connections.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from minio.credentials.providers import StaticProvider
from minio.helpers import DictType
from minio.signer import sign_v4_s3
from minio.time import to_amz_date

from tests.support.authority import Authority
from tests.support.loopback import Answer, Loopback, loopback
from workers.backends import plain_http
from workers.backends.plain_http import PlainAnswer
from workers.backends.s3_client import SkewCorrectedMinio
from workers.backends.s3_http import ClockedPool

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
VISIBLE = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"'), min_size=1, max_size=40
)


def ok(body: bytes, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, f"Content-Length: {len(body)}", "", ""]).encode() + body


def pool(*, servers: int | None = None) -> ClockedPool:
    made = ClockedPool(connections=1, connect_s=2.0, request_s=5.0)
    made.pools._maxsize = servers or made.pools._maxsize
    return made


def read(
    store: ClockedPool,
    server: Loopback,
    headers: dict[str, str] | None = None,
    path: str = "/b/k",
    scheme: str = "http",
) -> bytes:
    answer = store.open_object(f"{scheme}://127.0.0.1:{server.port}", path, headers or {})
    try:
        found = b""
        while chunk := answer.read1(1000):
            found += chunk
        return found
    finally:
        answer.close()
        answer.release_conn()


@contextmanager
def asked_plainly(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """For each object that is asked for whether its answer was a plain one."""
    found: list[bool] = []
    get = plain_http.get

    def watched(*arguments: object) -> object:
        answer = get(*arguments)  # type: ignore[arg-type]
        found.append(isinstance(answer, PlainAnswer))
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(plain_http, "get", watched)
        yield found


def test_the_second_object_is_asked_for_plainly_and_over_the_same_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback(lambda connection, _: connection.sendall(ok(b"image" * 100))) as server:
        store = pool()
        with asked_plainly(monkeypatch) as plainly:
            assert [read(store, server, {"host": "h", "x-one": "1"}) for _ in range(3)] == [b"image" * 100] * 3
        assert plainly == [False, True, True]
        assert server.accepted == 1
        assert server.received[1] == b"GET /b/k HTTP/1.1\r\nAccept-Encoding: identity\r\nhost: h\r\nx-one: 1\r\n\r\n"


@pytest.mark.parametrize(
    "last", [ok(b"x", "Connection: close"), ok(b"x") + b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot asked"]
)
def test_a_connection_that_ends_or_says_more_than_was_asked_is_not_used_again(last: bytes) -> None:
    """Guard: what comes after an answer would be taken for the next object's."""
    answers = iter([ok(b"first"), last])
    with loopback(lambda connection, _: connection.sendall(next(answers, ok(b"third")))) as server:
        store = pool()
        assert [read(store, server) for _ in range(3)] == [b"first", b"x", b"third"]
        assert server.accepted == 2


@pytest.mark.parametrize("first", [True, False])
def test_what_comes_unasked_within_a_record_of_tls_is_not_the_next_answer(tmp_path: Path, first: bool) -> None:
    """The system does not know of it any more: it lies decrypted with OpenSSL."""
    authority = Authority(tmp_path / "authority")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.sign("store"))
    unasked = ok(b"another's")

    def answer(connection: socket.socket, _: bytes) -> None:
        nonlocal first
        body = b"x" * 9000
        if first:
            connection.sendall(ok(body) + unasked)
        else:
            head, rest = ok(body)[:-9000], body
            connection.sendall(head)
            connection.sendall(rest + unasked)
        first = False

    with loopback(answer, tls) as server:
        store = ClockedPool(connections=1, connect_s=2.0, request_s=5.0, ca_certs=str(authority.certificate))
        assert [read(store, server, scheme="https") for _ in range(3)] == [b"x" * 9000] * 3
        assert server.accepted == 3


def test_a_connection_whose_answer_was_not_read_is_not_used_again() -> None:
    with loopback(lambda connection, _: connection.sendall(ok(b"x" * 2000))) as server:
        store = pool()
        read(store, server)
        answer = store.open_object(f"http://127.0.0.1:{server.port}", "/b/k", {})
        answer.read1(10)
        answer.close()
        answer.release_conn()
        assert read(store, server) == b"x" * 2000
        assert server.accepted == 2


@pytest.mark.parametrize(
    "plain",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nimage",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Folded: a\r\n b\r\n\r\nimage",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nimage\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nimage",
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\nimage",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage",
    ],
    ids=["a length told twice", "a folded header", "chunks", "an older version", "line feeds alone", "a word before"],
)
def test_an_answer_that_is_not_plain_is_read_as_http_knows_it(plain: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([ok(b"first")])
    with loopback(lambda connection, _: connection.sendall(next(answers, plain))) as server:
        store = pool()
        read(store, server)
        with asked_plainly(monkeypatch) as plainly:
            assert read(store, server) == b"image"
        assert plainly == [False]


@pytest.mark.parametrize("end", [b"x", b"\n"])
def test_a_header_full_of_blanks_takes_no_longer_than_another(end: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: \t 5 \t\r\nX:" + b" " * 16_000 + end + b"\r\n\r\n"
    began = time.thread_time()
    assert (plain_http._plain(head) is None) == (end == b"\n")
    assert time.thread_time() - began < 0.5


def test_an_answer_for_which_there_is_no_memory_keeps_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: object) -> None:
        raise MemoryError

    with loopback(lambda connection, _: connection.sendall(ok(b"image"))) as server:
        store = pool()
        read(store, server)
        with monkeypatch.context() as patched:
            patched.setattr(plain_http, "PlainAnswer", answer)
            with pytest.raises(MemoryError):
                read(store, server)
        with store.within(1.0):
            assert read(store, server) == b"image"


@pytest.mark.parametrize("value", ["a\r\nX-More: 1", "a\nX-More: 1", "a\rX-More: 1"])
def test_a_header_of_two_lines_is_never_sent(value: str) -> None:
    with loopback(lambda connection, _: connection.sendall(ok(b"image"))) as server:
        store = pool()
        read(store, server)
        with pytest.raises(ValueError, match="header"):
            read(store, server, {"x-amz-security-token": value})
        assert not any(b"X-More" in request for request in server.received)


def test_a_target_of_two_words_is_never_sent_as_it_is() -> None:
    with loopback(lambda connection, _: connection.sendall(ok(b"image"))) as server:
        store = pool()
        read(store, server)
        read(store, server, path="/b/k HTTP/1.1")
        assert server.received[-1].startswith(b"GET /b/k%20HTTP/1.1 HTTP/1.1\r\n")


def test_connections_that_were_closed_in_favour_of_other_servers_are_made_again() -> None:
    answer: Answer = lambda connection, _: connection.sendall(ok(b"image"))  # noqa: E731
    with loopback(answer) as one, loopback(answer) as other:
        store = pool(servers=1)
        for server in (one, one, other, one, one):
            assert read(store, server) == b"image"


def test_connections_to_the_servers_of_many_buckets_are_kept_also_after_each_was_closed_once() -> None:
    said = ok(b"image", "Connection: close")
    answer: Answer = lambda connection, _: connection.sendall(said)  # noqa: E731
    with contextlib.ExitStack() as running:
        servers = [running.enter_context(loopback(answer)) for _ in range(6)]
        store = pool()
        for _ in range(4):
            for server in servers:
                assert read(store, server) == b"image"
            said = ok(b"image")
        assert [server.accepted for server in servers] == [2] * 6


def test_an_answer_that_comes_in_parts_has_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    began = iter([True])

    def answer(connection: socket.socket, _: bytes) -> None:
        if next(began, False):
            connection.sendall(ok(b"first"))
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        for number in range(100):
            connection.sendall(bytes([number]))
            time.sleep(0.05)

    with loopback(answer) as server, asked_plainly(monkeypatch) as plainly:
        store = pool()
        read(store, server)
        with store.within(0.3), pytest.raises(urllib3.exceptions.ReadTimeoutError):
            read(store, server)
        assert plainly == [False, True]


class Asked(ClockedPool):
    """Keeps what it is asked for."""

    def open_object(self, server: str, target: str, headers: Mapping[str, str]) -> PlainAnswer:
        self.url, self.headers_sent = server + target, dict(headers)
        return cast(PlainAnswer, None)


@given(
    key=KEYS,
    version=st.none() | KEYS,
    etag=st.none() | VISIBLE,
    token=st.none() | VISIBLE,
    secret=VISIBLE,
    secure=st.booleans(),
    endpoint=st.sampled_from(["minio:9000", "s3.amazonaws.com", "s3.eu-west-1.amazonaws.com"]),
    second=st.integers(0, 4_000_000_000),
)
def test_what_is_signed_is_signed_as_minio_does(
    key: str,
    version: str | None,
    etag: str | None,
    token: str | None,
    secret: str,
    secure: bool,
    endpoint: str,
    second: int,
) -> None:
    asked = Asked(connections=1, connect_s=1.0, request_s=1.0)
    moment = datetime.fromtimestamp(second, UTC)
    client = SkewCorrectedMinio(
        endpoint,
        access_key="key",
        secret_key=secret,
        session_token=token,
        secure=secure,
        region="eu-west-1",
        http_client=asked,
    )
    client._now = lambda: moment  # type: ignore[method-assign]
    for _ in range(2):  # with the day's key, and with it once more
        client.open_object("bucket", key, version, etag)
    signed = asked.headers_sent
    url = urlsplit(asked.url)
    theirs = client._base_url.build(
        method="GET",
        region="eu-west-1",
        bucket_name="bucket",
        object_name=key,
        query_params={"versionId": version} if version else None,
    )
    assert asked.url == theirs.geturl()
    headers: DictType = {
        "Host": url.netloc,
        "x-amz-content-sha256": signed["x-amz-content-sha256"],
        "x-amz-date": to_amz_date(moment),
        **({"If-Match": f'"{etag}"'} if etag else {}),
        **({"X-Amz-Security-Token": token} if token else {}),
    }
    expected = sign_v4_s3(
        method="GET",
        url=theirs,
        region="eu-west-1",
        headers=headers,
        credentials=StaticProvider("key", secret, token).retrieve(),
        content_sha256=signed["x-amz-content-sha256"],
        date=moment,
    )
    assert {name.lower(): value for name, value in expected.items()} == {
        name: value for name, value in signed.items() if name != "user-agent"
    }
