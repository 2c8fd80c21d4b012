"""Attacks on the page from its network, and by outcomes that are valid: real sockets, a real PostgreSQL."""

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import pytest

from index.tests.browsing import served
from index.tests.support import Said, enriched, written
from tagstream_index import searching
from tagstream_index.database import Connection
from tagstream_index.page import connections, finding, pool, process
from tagstream_index.page.access import People
from tagstream_index.settings import IndexSettings
from tests.support.command import Tagstream
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

PAGE_WITHIN_S = 3.0


class Attacked:
    def __init__(self, address: str, cleanup: ExitStack) -> None:
        self.place = (urlsplit(address).hostname or "", urlsplit(address).port or 0)
        self._cleanup = cleanup

    def connect(self, data: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        made = self._cleanup.enter_context(socket.create_connection(self.place, 30, (source, 0)))
        made.sendall(data)
        return made

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], float]:
        started = time.monotonic()
        with closing(http.client.HTTPConnection(*self.place, timeout=60)) as connection:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            answer.read()
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, _since(started)


def _since(started: float) -> float:
    return time.monotonic() - started


@pytest.fixture
def attacked(settings: IndexSettings, tables: Connection) -> Iterator[Callable[..., Attacked]]:
    written(tables, enriched("a.jpg"))
    with ExitStack() as cleanup:
        yield lambda **others: Attacked(cleanup.enter_context(served(settings, **others)), cleanup)


def closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    caption = f"caption || (select pg_sleep({seconds})::text) as caption"
    assert "caption" in searching._SHOWN
    monkeypatch.setattr(searching, "_SHOWN", searching._SHOWN.replace("caption", caption))


def test_idle_connections_silence_neither_the_page_nor_its_probes(attacked: Callable[..., Attacked]) -> None:
    for page in (attacked(), attacked(behind_proxy=True)):
        idle = [page.connect() for _ in range(connections.CONNECTIONS + 20)]
        for path in ("/livez", "/readyz", "/"):
            status, _, took_s = page.get(path)
            assert (status, took_s < PAGE_WITHIN_S) == (200, True), path
        assert sum(map(closed, idle)) >= 20
        idle[0].close()


def test_no_answer_waits_for_an_acknowledgement(attacked: Callable[..., Attacked]) -> None:
    took_s = list[float]()
    with closing(http.client.HTTPConnection(*attacked().place, timeout=60)) as connection:
        for _ in range(25):
            started = time.monotonic()
            connection.request("GET", "/livez")
            connection.getresponse().read()
            took_s.append(_since(started))
    assert sorted(took_s)[12] < 0.03, "a delayed one takes 40 ms"


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET / HT", b"POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90\r\n\r\ntoken="],
    ids=["nothing", "head", "body"],
)
def test_a_request_has_a_clock_however_it_trickles(
    attacked: Callable[..., Attacked], begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 1.0)
    page = attacked()
    connection = page.connect()
    if begun:  # after an answer it holds again
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"200 OK" in connection.recv(4096)
    started = time.monotonic()
    with pytest.raises(ConnectionError):  # noqa: PT012
        for byte in begun:
            connection.sendall(bytes([byte]))
        while _since(started) < 10:
            if begun:
                connection.sendall(b"a")
            elif closed(connection):
                raise ConnectionError
            time.sleep(0.2)
    assert 0.9 < _since(started) < 6


def test_an_address_has_fifty_connections_and_a_proxy_has_more(attacked: Callable[..., Attacked]) -> None:
    page = attacked()
    mine = [page.connect() for _ in range(connections.OF_ADDRESS + 5)]
    other = page.connect(source="127.0.0.2")
    eventually(lambda: [closed(each) for each in mine] == [True] * 5 + [False] * connections.OF_ADDRESS, 5)
    assert not closed(other)
    proxied = attacked(behind_proxy=True)
    mine = [proxied.connect() for _ in range(connections.OF_ADDRESS + 5)]
    assert proxied.get("/livez")[0] == 200
    assert not any(map(closed, mine))


def test_where_all_connections_of_an_address_are_at_work_probes_are_answered(
    attacked: Callable[..., Attacked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "OF_ADDRESS", 2)
    slow(monkeypatch, 1.5)
    page = attacked()
    working = [page.connect(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n") for _ in range(2)]
    time.sleep(0.3)
    assert page.get("/livez")[0] == 200
    status, headers, _ = page.get("/")
    assert (status, "retry-after" in headers, "content-security-policy" in headers) == (503, True, True)
    assert [each.recv(15) for each in working] == [b"HTTP/1.1 200 OK"] * 2


def test_two_hundred_readers_delay_no_probe_and_learn_when_to_come_again(
    attacked: Callable[..., Attacked], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.5)
    page = attacked(behind_proxy=True)
    with ThreadPoolExecutor(200) as readers:
        asked = [readers.submit(page.get, "/", x_forwarded_for=f"192.0.2.1, 10.0.0.{n}") for n in range(200)]
        eventually(lambda: any(each.done() and each.result()[0] == 503 for each in asked))
        waiting = [each for each in asked if not each.done()]
        assert page.get("/livez")[0] == 200
        assert not all(each.done() for each in waiting), "the probe waited for its turn among the readers"
    answers = [each.result() for each in asked]
    served_ones = [each for each in answers if each[0] == 200]
    refused = [headers for status, headers, _ in answers if status == 503]
    assert len(served_ones) >= pool.AT_ONCE + pool.WAITING
    assert len(served_ones) + len(refused) == 200
    assert refused
    assert all("retry-after" in headers for headers in refused)


def test_a_flood_of_one_reader_leaves_another_his_turn(
    attacked: Callable[..., Attacked], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.5)
    page = attacked()
    with ThreadPoolExecutor(40) as readers:
        flood = [readers.submit(page.get, "/") for _ in range(40)]
        time.sleep(0.3)
        with closing(http.client.HTTPConnection(*page.place, timeout=60, source_address=("127.0.0.2", 0))) as other:
            started = time.monotonic()
            other.request("GET", "/")
            assert (other.getresponse().status, _since(started) < PAGE_WITHIN_S) == (200, True)
    assert {each.result()[0] for each in flood} == {200, 503}


def bare(said: Said) -> Said:
    fields = {name: value for name, value in said.fields.items() if name not in ("reason", "cache")}
    for within, names in {"event": ["dialect", "time"], "source": ["version_id", "sequencer"]}.items():
        fields[within] = {name: value for name, value in fields[within].items() if name not in names}
    tagger = {"name": "small", "digest": "a" * 64, "precision": "fp32"}
    return Said({**fields, "models": {"tagger": tagger}, "caption": {"text": "a dog", "method": "greedy"}})


def test_an_outcome_without_optional_fields_is_shown(attacked: Callable[..., Attacked], tables: Connection) -> None:
    without = bare(enriched("bare.jpg"))
    written(tables, without, without.but(version=2, produced_at="2026-01-02T00:00:00Z", models={}))
    written(tables, enriched("none.jpg").but(models={}, caption=None))
    page = attacked()
    for key in ("bare.jpg", "none.jpg"):
        assert page.get(f"/picture?of=photos/{key}")[0] == 200, key


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([b"X-Forwarded-User: ann"], True),
        ([b"x-forwarded-USER:ann "], True),
        ([b"X-Forwarded-User: ann", b"X-Forwarded-User: ann"], False),
        ([b"X-Forwarded-User: ann", b"x-forwarded-user: eve"], False),
        ([b"X_Forwarded_User: ann"], False),
        ([b"X-Forwarded-User: ann" + b"a" * 10_000], False),
        ([b"X-Forwarded-User: ann\x01"], False),
        ([b"X-Forwarded-User: ann\n X"], False),
        ([b"X-Forwarded-User : ann"], False),
    ],
)
def test_a_person_is_one_header_line(attacked: Callable[..., Attacked], lines: list[bytes], named: bool) -> None:
    page = attacked(behind_proxy=True, people=People("X-Forwarded-User", None))
    head = b"\r\n".join([b"GET / HTTP/1.1", b"host: localhost", b"connection: close", *lines])
    with closing(page.connect(head + b"\r\n\r\n")) as connection:
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))
    assert (b">ann</span>" in answer) == named


def test_every_answer_has_the_policy(attacked: Callable[..., Attacked], monkeypatch: pytest.MonkeyPatch) -> None:
    page = attacked()
    monkeypatch.setattr(finding, "freshness", None)  # an unforeseen error
    for path, expected in {"/": 500, "/nowhere": 404, "/picture?of=": 404, "/livez": 200}.items():
        status, headers, _ = page.get(path)
        assert (status, headers["content-security-policy"][:19]) == (expected, "default-src 'self';"), path
    answer = page.connect(b"what\r\n\r\n").recv(4096)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"content-security-policy" in answer.lower()


def test_invalid_tables_end_the_page_at_once(
    tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch, settings: IndexSettings, tables: Connection
) -> None:
    monkeypatch.setattr(process, "start_logging", lambda *_, **__: None)  # to a stream that ends with this test
    tables.execute("delete from migration where number > 1")
    for name in (settings.index_schema, "nowhere"):
        given = {"S3_ENDPOINT": "http://s3", "BUCKETS": "photos", "INDEX_SCHEMA": name}
        assert "tagstream index init" in tagstream("index", "serve", "--port", "0", **given).fails()
