"""Servers that are away, hang, refuse or answer nonsense make misses, at once."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from tagstream_testing.local.valkey import Valkey
from tests.fixtures import Unique
from tests.support.loopback import loopback, silence
from tests.support.waiting import bounded, eventually
from workers.backends.result_cache import RedisResultCache
from workers.backends.scoped_cache import NoCache
from workers.errors import Misconfigured, Unavailable

TIMEOUT_S = 0.1
PATIENT_S = 10.0
"""Long enough on a busy machine."""
UNREACHABLE = "redis://127.0.0.1:1/0"

Make = Callable[..., RedisResultCache]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[RedisResultCache] = []

    def build(url: str, timeout_s: float = PATIENT_S) -> RedisResultCache:
        made.append(RedisResultCache(url, ttl_s=60.0, timeout_s=timeout_s))
        return made[-1]

    yield build
    for cache in made:
        cache.close()


def use(cache: RedisResultCache) -> None:
    """Every call once; all must be misses and no error."""
    assert cache.lookup(["a", "b"]) == [None, None]
    assert cache.lookup_fields([("h", "a"), ("h", "b"), ("i", "a")]) == [None, None, None]
    assert cache.hashes(["h", "i"]) == [{}, {}]
    cache.remember({"a": b"1"}, {("h", "a"): b"2"})
    cache.forget(["h"])


def keeps(cache: RedisResultCache, key: str) -> bool:
    cache.remember({key: b"1"}, {})
    return cache.lookup([key]) == [b"1"]


@pytest.mark.parametrize("cause", ["connection", "timeout"])
def test_a_server_that_is_missing_or_hangs_costs_one_failure_and_then_nothing(
    make: Make, causes: list[object], cause: str
) -> None:
    with loopback(silence) as server:
        cache = make(UNREACHABLE if cause == "connection" else f"redis://127.0.0.1:{server.port}", TIMEOUT_S)
        for _ in range(20):
            use(cache)
    assert causes[0] == cause
    assert set(causes[1:]) == {"paused"}


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_name_that_is_not_resolved_costs_one_timeout(
    make: Make, causes: list[object], monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    away = threading.Event()

    def resolve(host: str, *_: object, **__: object) -> object:
        away.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with bounded():
        use(make(f"{scheme}://{scheme}.example:6379", TIMEOUT_S))  # a late answer of a name would be kept
    away.set()
    assert causes[0] == "timeout"


def test_a_name_that_takes_longer_than_a_call_is_known_at_last(
    make: Make, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guard: all calls share one lookup, and its late answer serves the next."""
    asked: list[str] = []
    there = threading.Event()
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *rest: Any, **more: Any) -> Any:
        if host != "slow.example":
            return real(host, port, *rest, **more)
        asked.append(host)
        there.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url = f"redis://slow.example:{valkey.ports[0]}"
    for _ in range(3):
        with pytest.raises(Unavailable):
            make(url, 0.01).check()
    there.set()
    eventually(lambda: all(thread.name != "resolve" for thread in threading.enumerate()))
    there.clear()
    with bounded():
        make(url, PATIENT_S).check()
    assert asked == ["slow.example"]


def test_every_address_of_a_name_is_tried(make: Make, valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *rest: Any, **more: Any) -> Any:
        if host != "redis.example":
            return real(host, port, *rest, **more)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in (9, 1)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    make(f"redis://redis.example:{valkey.ports[0]}", PATIENT_S).check()


def test_an_address_that_never_answers_leaves_time_for_the_next(
    make: Make, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, causes: list[object]
) -> None:
    full = socket.create_server(("127.0.0.9", valkey.ports[0]), backlog=0)
    waiting = [socket.socket() for _ in range(2)]  # the queue takes one connection; later ones are not answered
    for each in waiting:
        each.setblocking(False)
        each.connect_ex(full.getsockname())
    monkeypatch.setattr("workers.backends.redis_client._resolved", lambda *_: ["127.0.0.9", "127.0.0.1"])
    make(f"redis://cache.example:{valkey.ports[0]}/0", 1.0).lookup(["nothing"])
    assert causes == []
    for each in (full, *waiting):
        each.close()


def test_timeouts_in_the_url_do_not_win(make: Make) -> None:
    with loopback(silence) as server, bounded():
        url = f"redis://127.0.0.1:{server.port}?socket_timeout=100&decode_responses=true&protocol=3"
        use(make(url, TIMEOUT_S))


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (b"-NOAUTH Authentication required.\r\n", "auth"),
        (b"-NOPERM this user has no permissions to run the 'mget' command\r\n", "auth"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "loading"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", "full"),
        (b"-READONLY You can't write against a read only replica.\r\n", "readonly"),
        (b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n", "refused"),
        (b"+OK\r\n", "garbage"),
        (b"*1\r\n$1\r\nx\r\n", "garbage"),
        (b":12\r\n", "garbage"),
        (b"$-1\r\n", None),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "garbage"),
        (b"*two\r\n", "garbage"),
        (b"$xyz\r\n", "garbage"),
        (b"\x00\x01\x02\r\n", "garbage"),
        (b"", "timeout"),
    ],
)
def test_whatever_a_server_replies_is_a_miss_with_a_cause(
    make: Make, causes: list[object], reply: bytes, cause: str | None
) -> None:
    with loopback(lambda connection, _: connection.sendall(reply)) as server:
        cache = make(f"redis://127.0.0.1:{server.port}", TIMEOUT_S if cause == "timeout" else PATIENT_S)
        assert cache.lookup(["a", "b"]) == [None, None]
    assert causes[:1] == ([cause] if cause else [])


def test_a_value_too_large_to_be_ours_leaves_the_next_call_alone(
    valkey: Valkey, make: Make, unique: Unique, causes: list[object]
) -> None:
    cache, key, other, name = make(valkey.url), unique("key"), unique("key"), unique("hash")
    cache.remember({other: b"1"}, {(name, "good"): b"2"})
    with redis.Redis.from_url(valkey.url) as client:
        client.set(key, bytes(50_000_000))
        client.hset(name, "bad", bytes(50_000_000))
    assert cache.lookup([key]) == [None]
    assert cache.lookup_fields([(name, "bad")]) == [None]
    assert cache.lookup([other]) == [b"1"]
    assert cache.lookup_fields([(name, "good")]) == [b"2"]
    cache.remember({key: b"3"}, {})
    assert cache.lookup([key, other]) == [b"3", b"1"]
    assert causes == ["too-large", "too-large"]


def test_all_values_of_a_call_together_have_a_bound(
    valkey: Valkey, make: Make, unique: Unique, causes: list[object]
) -> None:
    cache, name, mebibyte = make(valkey.url), unique("key"), bytes(2**20)
    keys = [f"{name}-{number}" for number in range(40)]
    with redis.Redis.from_url(valkey.url) as client:
        for key in keys:
            client.set(key, mebibyte)
    assert cache.lookup(keys) == [mebibyte] * 32 + [None] * 8
    assert set(causes) == {"too-large"}


def test_a_servers_text_reaches_the_log_without_control_characters(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with loopback(lambda connection, _: connection.sendall(b"-LOADING \x1b[2J\rsoon\r\n")) as server:
        use(make(f"redis://127.0.0.1:{server.port}"))
    assert "soon" in caplog.text
    assert "\x1b" not in caplog.text
    assert "\r" not in caplog.text


def test_a_value_that_is_no_bytes_is_a_miss(make: Make) -> None:
    with loopback(lambda connection, _: connection.sendall(b"*2\r\n:7\r\n$1\r\nx\r\n")) as server:
        assert make(f"redis://127.0.0.1:{server.port}").lookup(["a", "b"]) == [None, b"x"]


def test_a_refused_command_does_not_stop_the_next(make: Make, causes: list[object]) -> None:
    with loopback(lambda connection, _: connection.sendall(b"-OOM full\r\n")) as server:
        cache = make(f"redis://127.0.0.1:{server.port}")
        cache.remember({"a": b"1"}, {})
        cache.remember({"a": b"1"}, {})
    assert causes == ["full", "full"]


def test_a_hash_under_the_name_of_another_type_is_a_miss(valkey: Valkey, make: Make, unique: Unique) -> None:
    cache, good, bad = make(valkey.url), unique("hash"), unique("hash")
    cache.remember({bad: b"a plain value"}, {(good, "f"): b"1"})
    assert cache.lookup_fields([(bad, "f"), (good, "f")]) == [None, b"1"]
    assert cache.lookup([good]) == [None]


def test_names_are_found_by_their_prefix_whatever_characters_it_has(valkey: Valkey, make: Make, unique: Unique) -> None:
    cache, stem = make(valkey.url), f"{unique('names')}:http://[::1]:9/*?\\^-"
    ours = {f"{stem}/{number}": b"1" for number in range(700)}
    cache.remember({**ours, stem.replace("*", "x"): b"2", stem.replace("[::1]", ":"): b"3"}, {(f"{stem}/h", "f"): b"4"})
    assert {name for names in cache.names(stem) for name in names} == {*ours, f"{stem}/h"}
    assert cache.remove([*ours, "no such"]) == len(ours)
    assert [name for names in cache.names(stem) for name in names] == [f"{stem}/h"]


def test_names_and_removals_of_a_server_that_is_away_are_errors(make: Make) -> None:
    cache = make(UNREACHABLE)
    with pytest.raises(Unavailable):
        next(cache.names("a"))
    with pytest.raises(Unavailable):
        cache.remove(["a"])


def test_a_hash_of_too_many_fields_is_not_read(valkey: Valkey, make: Make, unique: Unique) -> None:
    cache, large, small = make(valkey.url), unique("large"), unique("small")
    cache.remember({}, {(large, str(number)): b"1" for number in range(10_001)} | {(small, "f"): b"1"})
    assert cache.hashes([large, small]) == [{}, {"f": b"1"}]


def test_every_entry_has_a_time_to_live(valkey: Valkey, make: Make, unique: Unique) -> None:
    cache, key, name = make(valkey.url), unique("key"), unique("hash")
    cache.remember({key: b"1"}, {(name, "a"): b"1", (name, "b"): b"2"})
    with redis.Redis.from_url(valkey.url) as client:
        for entry in (key, name):
            left_ms = client.pttl(entry)
            assert isinstance(left_ms, int)
            assert 50_000 < left_ms <= 60_000


def test_a_server_that_hangs_and_wakes_is_used_again_by_itself(
    own_valkey: Valkey, make: Make, unique: Unique, causes: list[object]
) -> None:
    cache = make(own_valkey.url, 1.0)
    key = unique("key")
    eventually(lambda: keeps(cache, key))
    causes.clear()
    own_valkey.freeze()
    try:
        for _ in range(50):
            assert cache.lookup([key]) == [None]
        assert causes == ["timeout"] + ["paused"] * 49
    finally:
        own_valkey.thaw()
    eventually(lambda: cache.lookup([key]) == [b"1"])


def test_a_server_that_restarts_is_used_again_by_itself(own_valkey: Valkey, make: Make, unique: Unique) -> None:
    cache = make(own_valkey.url)
    key = unique("key")
    eventually(lambda: keeps(cache, key))
    own_valkey.kill()
    try:
        for _ in range(5):
            assert cache.lookup([key]) == [None]
    finally:
        own_valkey.start()
    eventually(lambda: cache.lookup([key]) == [b"1"])


def test_nothing_probes_a_dead_server_after_close(make: Make) -> None:
    with loopback(lambda connection, _: connection.shutdown(socket.SHUT_RDWR)) as server:
        cache = make(f"redis://127.0.0.1:{server.port}")
        use(cache)
        asked = len(server.received)
        eventually(lambda: len(server.received) > asked, why=lambda: "it is not probed before close either")
        cache.close()
        eventually(lambda: not probing())
        asked = len(server.received)
        use(cache)
        assert not probing()
        assert len(server.received) == asked


def probing() -> bool:
    return any(thread.name == "tagstream-probe" for thread in threading.enumerate())


def value_of(data: bytes) -> bytes:
    return b"*1\r\n$1\r\n%b\r\n" % data


def test_one_thread_uses_one_connection(make: Make) -> None:
    with loopback(lambda connection, _: connection.sendall(value_of(b"x"))) as server:
        cache = make(f"redis://127.0.0.1:{server.port}")
        assert [cache.lookup(["a"]) for _ in range(5)] == [[b"x"]] * 5
    assert server.accepted == 1


def test_a_connection_that_the_server_has_closed_is_replaced_before_it_is_used(
    own_valkey: Valkey, make: Make, unique: Unique, causes: list[object]
) -> None:
    cache, key = make(own_valkey.url), unique("key")
    assert keeps(cache, key)
    with redis.Redis.from_url(own_valkey.url) as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert cache.lookup([key]) == [b"1"]
    assert causes == []


def test_threads_that_ask_at_once_get_their_own_answers(valkey: Valkey, make: Make, unique: Unique) -> None:
    cache, name = make(valkey.url), unique("key")
    cache.remember({f"{name}{number}": b"%d" % number for number in range(8)}, {})

    def ask(number: int) -> bool:
        return all(cache.lookup([f"{name}{number}"]) == [b"%d" % number] for _ in range(100))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(8)))


def test_a_connection_without_its_login_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """Where the URL's file holds no URL for a moment: the text of a refusal to read it would quote the password."""
    urls = iter(["redis://:hidden/secret@host:6379/5"])

    def answer(connection: socket.socket, asked: bytes) -> None:
        connection.sendall(b"+PONG\r\n" if b"PING" in asked else b"+OK\r\n")

    with loopback(answer) as server:
        url = f"redis://:known@127.0.0.1:{server.port}/5"
        cache = RedisResultCache(url, ttl_s=60.0, timeout_s=PATIENT_S, now=lambda: next(urls, url))
        cache.lookup(["a"])
        eventually(cache._breaker.closed)
        cache.close()
    assert [b"AUTH" in said or b"SELECT" in said for said in server.received] == [True, True, False]
    assert "auth (TAGSTREAM_REDIS_URL can't be read any more)" in caplog.text
    assert "hidden" not in caplog.text


def test_check_refuses_what_answers_a_ping_with_anything_else(make: Make) -> None:
    with loopback(lambda connection, _: connection.sendall(b"+HELLO\r\n")) as server:
        cache = make(f"redis://127.0.0.1:{server.port}/0")
        with pytest.raises(Unavailable, match="a wrong answer to PING"):
            cache.check()


@pytest.mark.parametrize("size", [1, 16 * 1024 - 1, 16 * 1024, 100_000])
def test_values_of_any_size_are_sent_whole(valkey: Valkey, make: Make, unique: Unique, size: int) -> None:
    cache, key, other = make(valkey.url), unique("ключ"), unique("key")
    cache.remember({key: b"\r\n" + b"x" * size, other: b"$1\r\n"}, {(key + "h", "ф"): b"y" * size})
    assert cache.lookup([key, other]) == [b"\r\n" + b"x" * size, b"$1\r\n"]
    assert cache.lookup_fields([(key + "h", "ф")]) == [b"y" * size]


def test_close_ends_its_connections(valkey: Valkey, make: Make) -> None:
    cache = make(valkey.url)
    with redis.Redis.from_url(valkey.url) as client:

        def open_now() -> set[str]:
            return {connection["id"] for connection in client.client_list()}

        before = open_now()
        eventually(lambda: keeps(cache, "a"))
        own = open_now() - before
        assert own
        cache.close()
        eventually(lambda: not own & open_now())


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@host",
        "redis://:hunter2@host:port",
        "redis://:hunter2@h?nonsense=1",
        "redis://:hunter2/x@h",
        "redis://:hunter2#x@h",
        "redis://h?password=hunter2&nonsense=1",
        "redis://user:123?hunter2=x@h/0",
        *(
            f"{place}?{option}"
            for place in ("redis://:hunter2@127.0.0.1:1/0", "rediss://:hunter2@127.0.0.1:1/0")
            for option in (
                "credential_provider=x",
                "maint_notifications_config=x",
                "oss_cluster_maint_notifications_handler=x",
                "queue_class=x",
                "redis_connect_func=x",
                "retry_on_error=x",
                "socket_keepalive=1&socket_keepalive_options=x",
                "socket_type=1",
            )
        ),
    ],
)
def test_a_url_that_can_not_be_used_is_named_without_its_password(url: str) -> None:
    with pytest.raises(Misconfigured, match="TAGSTREAM_REDIS_URL") as raised:
        RedisResultCache(url, ttl_s=60.0)
    assert "hunter2" not in str(raised.value)


def test_no_password_reaches_the_log(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with loopback(lambda connection, _: connection.sendall(b"-WRONGPASS invalid pair\r\n")) as server:
        cache = make(f"redis://user:hunter2@127.0.0.1:{server.port}/0")
        use(cache)
        assert f"redis://127.0.0.1:{server.port} failed: auth" in caplog.text
        with pytest.raises(Misconfigured) as raised:
            cache.check()
    assert "hunter2" not in caplog.text + str(raised.value)


def test_check_names_the_server_that_does_not_answer(make: Make) -> None:
    with pytest.raises(Unavailable, match=r"redis://127\.0\.0\.1:1 .*TAGSTREAM_REDIS_URL"):
        make(UNREACHABLE).check()


def test_no_cache_remembers_nothing_and_never_complains() -> None:
    cache = NoCache()
    cache.remember({"a": b"1"}, {("h", "a"): b"1"})
    cache.forget(["h"])
    assert cache.lookup(["a", "b"]) == [None, None]
    assert cache.lookup_fields([("h", "a")]) == [None]
    cache.close()
