"""Around the result cache: its transports, its breaker, and its namespaces."""

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tagstream_testing.local.valkey import Valkey
from tagstream_testing.memory import MemoryResultCache
from tests.fixtures import Unique
from tests.support.loopback import Answer, loopback, silence
from tests.support.secure_kafka import Authority
from tests.support.waiting import bounded, eventually
from workers.backends.result_cache import ProbingBreaker, RedisResultCache
from workers.backends.scoped_cache import ScopedCache


def relayed(port: int) -> Answer:
    """Passes the connection on to the real server, both ways."""

    def answer(connection: socket.socket, chunk: bytes) -> None:
        with socket.create_connection(("127.0.0.1", port)) as behind:
            behind.sendall(chunk)
            threading.Thread(target=copy, args=(behind, connection), daemon=True).start()
            copy(connection, behind)

    return answer


def copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The authority's certificate, and a server's with its key."""
    authority = Authority(tmp_path_factory.mktemp("ca") / "authority")
    return (authority.certificate, *authority.sign("server"))


@contextmanager
def cached(
    kind: str, folder: Path, certificates: tuple[Path, Path, Path], answer: Answer, timeout_s: float
) -> Iterator[RedisResultCache]:
    authority, certificate, key = certificates
    tls = listener = None
    if kind == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "r.sock"))
        listener.listen()
    else:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
    with loopback(answer, tls, listener) as server:
        url = f"rediss://127.0.0.1:{server.port}/0?ssl_ca_certs={authority}" if tls else f"unix://{folder / 'r.sock'}"
        with contextlib.closing(RedisResultCache(url, ttl_s=60.0, timeout_s=timeout_s)) as cache:
            yield cache


@pytest.mark.parametrize("kind", ["unix", "tls"])
def test_a_real_server_is_used(
    kind: str, valkey: Valkey, tmp_path: Path, certificates: tuple[Path, Path, Path], unique: Unique
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
    kind: str, tmp_path: Path, certificates: tuple[Path, Path, Path], causes: list[object]
) -> None:
    with cached(kind, tmp_path, certificates, silence, 0.3) as cache, bounded():
        assert cache.lookup(["a"]) == [None]
    assert causes == ["timeout"]


Make = Callable[..., ProbingBreaker]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes breakers and closes them after the test: until then each is shown among the metrics."""
    made: list[ProbingBreaker] = []

    def build(probe: Callable[[], bool], *, first_pause_s: float, last_pause_s: float = 5.0) -> ProbingBreaker:
        made.append(ProbingBreaker("x", probe, first_pause_s=first_pause_s, last_pause_s=last_pause_s))
        return made[-1]

    yield build
    for breaker in made:
        breaker.close()


def test_it_stays_open_while_probes_fail_and_reports_its_failure_and_end_once_each(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answers = iter([False, False, True])
    probes: list[float] = []

    def probe() -> bool:
        probes.append(time.monotonic())
        return next(answers)

    breaker = make(probe, first_pause_s=0.02)
    breaker.failure("why")
    breaker.failure("why")
    eventually(breaker.closed)
    assert caplog.messages == ["x failed: why; continuing without it until it answers a probe", "x is back"]
    assert len(probes) == 3
    assert probes[1] - probes[0] >= 0.04
    assert probes[2] - probes[1] >= 0.08


def test_an_answer_to_a_call_from_before_it_opened_closes_nothing(make: Make) -> None:
    """Guard: of many calls at once the first fails and the last is answered; only a probe tells how it is now."""
    breaker = make(lambda: False, first_pause_s=600.0)
    breaker.failure("why")
    breaker.success()
    assert not breaker.closed()


def test_it_is_half_open_while_a_probe_is_on_its_way_which_keeps_no_process_from_ending(make: Make) -> None:
    breaker: ProbingBreaker
    shown: list[list[str]] = []
    daemons: list[bool] = []

    def probe() -> bool:
        shown.append([str(labels["state"]) for number, labels in breaker._states() if number])
        daemons.append(threading.current_thread().daemon)
        return True

    breaker = make(probe, first_pause_s=0.01)
    breaker.failure("why")
    eventually(breaker.closed)
    assert (shown, daemons) == ([["half-open"]], [True])


def test_many_failures_at_once_start_one_probe(make: Make) -> None:
    probing = threading.Event()
    probes: list[int] = []

    def probe() -> bool:
        probes.append(1)
        return probing.wait(30)

    breaker = make(probe, first_pause_s=0.01)
    for _ in range(10):
        breaker.failure("why")
    eventually(lambda: probes)
    time.sleep(0.1)
    assert probes == [1]
    probing.set()
    eventually(breaker.closed)


def test_a_dependency_that_answers_probes_and_fails_at_work_is_left_alone_for_longer_and_longer(make: Make) -> None:
    breaker = make(lambda: True, first_pause_s=0.02, last_pause_s=0.2)
    pauses = []
    for _ in range(3):
        began = time.monotonic()
        breaker.failure("why")
        eventually(breaker.closed)
        pauses.append(time.monotonic() - began)
    assert pauses[1] >= 0.04
    assert pauses[2] >= 0.08


def test_work_that_succeeds_makes_the_next_pause_short_again(make: Make) -> None:
    """The tenth pause that doubles would take ten seconds: longer than is waited for it."""
    breaker = make(lambda: True, first_pause_s=0.02, last_pause_s=20.0)
    for _ in range(10):
        breaker.failure("why")
        eventually(breaker.closed)
        breaker.success()


def test_close_ends_the_probing(make: Make) -> None:
    breaker = make(lambda: False, first_pause_s=0.01)
    breaker.failure("why")
    breaker.close()
    eventually(lambda: not any(thread.name == "tagstream-probe" for thread in threading.enumerate()))


def test_a_failure_after_its_close_begins_no_probing(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    breaker = make(lambda: False, first_pause_s=0.01)
    breaker.close()
    breaker.failure("why")
    assert breaker.closed()
    assert caplog.messages == []


def test_where_no_thread_can_be_started_the_next_failure_tries_again(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    probed = threading.Event()

    def probe() -> bool:
        probed.set()
        return False

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    breaker = make(probe, first_pause_s=0.01)
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", refuse)
        breaker.failure("why")
    assert breaker.closed()
    assert caplog.messages[-1] == (
        "no thread to probe x can be started, so it is tried at once: can't start new thread"
    )
    breaker.failure("why")
    assert probed.wait(30)
    assert not breaker.closed()


KEY, OTHER_KEY = b"k" * 32, b"o" * 32


def filled(cache: ScopedCache) -> ScopedCache:
    cache.remember({"a": b"1", "b": b"2"}, {("h", "a"): b"3", ("h", "b"): b"4", ("i", "a"): b"5"})
    return cache


def everything(cache: ScopedCache) -> list[bytes | None]:
    return cache.lookup(["a", "b"]) + cache.lookup_fields([("h", "a"), ("h", "b"), ("i", "a")])


@pytest.mark.parametrize("key", [b"", KEY])
def test_one_namespace_does_not_see_or_delete_entries_of_another(key: bytes) -> None:
    shared = MemoryResultCache()
    one, other = (ScopedCache(shared, namespace=name, key=key) for name in ("one", "other"))
    filled(one)
    assert everything(other) == [None] * 5
    other.forget(["h", "i"])
    another_worker = ScopedCache(shared, namespace="one", key=key)
    assert everything(one) == everything(another_worker) == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize("writer", [OTHER_KEY, b""])
def test_an_entry_without_the_key_is_a_miss(writer: bytes, causes: list[object]) -> None:
    shared = MemoryResultCache()
    filled(ScopedCache(shared, namespace="n", key=writer))
    assert everything(ScopedCache(shared, namespace="n", key=KEY)) == [None] * 5
    assert causes == ["forged"] * 5


def test_no_entry_can_be_moved_to_another_name(causes: list[object]) -> None:
    shared = MemoryResultCache()
    ours = filled(ScopedCache(shared, namespace="n", key=KEY))
    [plain] = shared.lookup(["tagstream:n:a"])
    [field] = shared.lookup_fields([("tagstream:n:h", "a")])
    assert plain is not None
    assert field is not None
    shared.remember(
        {"tagstream:n:b": plain, "tagstream:n:h": field, "tagstream:m:a": plain},
        {("tagstream:n:h", "b"): field, ("tagstream:n:i", "a"): field, ("tagstream:n:a", ""): plain},
    )
    assert ours.lookup(["b", "h"]) == [None, None]
    assert ours.lookup_fields([("h", "b"), ("i", "a"), ("a", "")]) == [None, None, None]
    assert ScopedCache(shared, namespace="m", key=KEY).lookup(["a"]) == [None]
    assert ours.lookup(["a"]) == [b"1"]
    assert set(causes) == {"forged"}


def test_a_name_that_reads_like_another_with_its_field_is_not_that() -> None:
    shared = MemoryResultCache()
    ours = ScopedCache(shared, namespace="n", key=KEY)
    ours.remember({}, {("h", "ab"): b"1"})
    [sealed] = shared.lookup_fields([("tagstream:n:h", "ab")])
    assert sealed is not None
    shared.remember({}, {("tagstream:n:ha", "b"): sealed})
    assert ours.lookup_fields([("ha", "b")]) == [None]


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33])
def test_any_changed_byte_or_length_is_a_miss(length: int) -> None:
    shared = MemoryResultCache()
    ours = filled(ScopedCache(shared, namespace="n", key=KEY))
    [sealed] = shared.lookup(["tagstream:n:a"])
    assert sealed is not None
    assert len(sealed) == 33
    changed = sealed[:length] if length < 33 else sealed[:-1] + bytes([sealed[-1] ^ 1])
    shared.remember({"tagstream:n:a": changed}, {})
    assert ours.lookup(["a"]) == [None]
