"""The result cache over TLS and over a Unix socket: the same bounds hold, and a real server answers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tagstream_testing.local.valkey import Valkey
from tests.support.authority import Authority
from tests.support.waiting import bounded
from workers import metrics
from workers.backends.result_cache import RedisResultCache

Serve = Callable[[socket.socket], None]


@contextmanager
def accepting(listener: socket.socket, serve: Serve) -> Iterator[None]:
    """Each connection in a thread of its own, until the end of the body."""
    open_now: list[socket.socket] = []

    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            serve(connection)
        connection.close()

    def accept() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except ssl.SSLError:
                continue
            except OSError:
                return
            open_now.append(connection)
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in open_now:
            connection.close()
        thread.join(5)


def relayed(port: int) -> Serve:
    """To the real server: what is asked is one piece, and so is its answer up to the server's silence."""

    def serve(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as behind:
            back = threading.Thread(target=copy, args=(behind, connection), daemon=True)
            back.start()
            copy(connection, behind)

    return serve


def copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The authority's certificate, and a server's with its key."""
    authority = Authority(tmp_path_factory.mktemp("ca") / "authority")
    return (authority.certificate, *authority.sign("server"))


@contextmanager
def cached(
    kind: str, folder: Path, certificates: tuple[Path, Path, Path], serve: Serve, timeout_s: float
) -> Iterator[RedisResultCache]:
    authority, certificate, key = certificates
    if kind == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "r.sock"))
        listener.listen()
        url = f"unix://{folder / 'r.sock'}"
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        url = f"rediss://127.0.0.1:{listener.getsockname()[1]}/0?ssl_ca_certs={authority}"
    with accepting(listener, serve):
        cache = RedisResultCache(url, ttl_s=60.0, timeout_s=timeout_s)
        try:
            yield cache
        finally:
            cache.close()


@pytest.mark.parametrize("kind", ["unix", "tls"])
def test_a_real_server_is_used(
    kind: str,
    valkey: Valkey,
    tmp_path: Path,
    certificates: tuple[Path, Path, Path],
    unique: Callable[[str], str],
) -> None:
    large = bytes(range(256)) * 3000
    with cached(kind, tmp_path, certificates, relayed(valkey.ports[0]), 5.0) as cache:
        keys = [unique("key") for _ in range(9)]
        for _ in range(3):  # on a connection that is used again
            cache.remember(dict.fromkeys(keys, large), {(keys[0] + "h", "f"): b"1"})
            assert cache.lookup([*keys, unique("key")]) == [large] * 9 + [None]
            assert cache.lookup_fields([(keys[0] + "h", "f")]) == [b"1"]
        cache.check()


@pytest.mark.parametrize("kind", ["unix", "tls"])
def test_a_server_that_is_silent_costs_one_timeout(
    kind: str, tmp_path: Path, certificates: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    causes: list[object] = []
    monkeypatch.setattr(metrics.CACHE_ERRORS, "add", lambda *_, **labels: causes.append(labels["cause"]))
    with cached(kind, tmp_path, certificates, silent, 0.3) as cache, bounded():
        assert cache.lookup(["a"]) == [None]
    assert causes == ["timeout"]
