"""Names are resolved within a time, by one thread for each, and an answer that comes too late is not lost."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka import errors as kafka_errors
from kafka.net.inet import KafkaNetSocket

from tests.support.waiting import eventually
from workers.backends import resolver
from workers.backends.kafka import client as kafka_client
from workers.backends.resolver import resolved
from workers.errors import Unavailable

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9092))]


class Names:
    """The system's names, which are not found before `there` is set."""

    def __init__(self) -> None:
        self.there = threading.Event()
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.lookups: dict[tuple[str, int], object] = {}
        """Lookups under way, and late answers."""

    def resolve(self, name: str, port: int, **_: Any) -> Any:
        self.asked.append(name)
        self.there.wait(20)
        if self.error is not None:
            raise self.error
        return FOUND


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made.resolve)
    monkeypatch.setattr(resolver, "_lookups", made.lookups)
    yield made
    made.there.set()


def none_is_asked() -> bool:
    return not any(thread.name == "resolve" for thread in threading.enumerate())


def test_all_who_ask_at_a_time_wait_for_one_answer(system: Names) -> None:
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(resolved, "broker", 9092, 0.1) for _ in range(8)]
        assert all(isinstance(each.exception(), TimeoutError) for each in waiting)
    assert system.asked == ["broker"]


def test_an_answer_in_time_is_not_kept(system: Names) -> None:
    system.there.set()
    assert [resolved("broker", 9092, 10.0) for _ in range(2)] == [FOUND, FOUND]
    assert system.asked == ["broker", "broker"]


def test_a_name_that_takes_longer_than_anyone_waits_is_known_at_last(system: Names) -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError, match=r"broker was not resolved within 0\.0 s"):
            resolved("broker", 9092, 0.01)
    system.there.set()
    eventually(none_is_asked)
    assert resolved("broker", 9092, 0.0) == FOUND
    assert system.asked == ["broker"]
    assert resolved("broker", 9092, 5.0) == FOUND
    assert system.asked == ["broker", "broker"], "an answer serves once"


def test_late_answers_that_are_asked_for_no_more_are_forgotten(system: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard: a broker can name as many others as it likes."""
    for number in range(10):
        with pytest.raises(TimeoutError):
            resolved(f"broker-{number}", 9092, 0.001)
    system.there.set()
    eventually(none_is_asked)
    assert len(system.lookups) == 10
    monkeypatch.setattr(resolver, "_KEPT_S", -1.0)
    assert resolved("another", 9092, 5.0) == FOUND
    assert system.lookups == {}


def test_a_late_answer_is_not_believed_for_long(system: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TimeoutError):
        resolved("broker", 9092, 0.01)
    system.error = socket.gaierror(socket.EAI_AGAIN, "late")
    system.there.set()
    eventually(none_is_asked)
    monkeypatch.setattr(resolver, "_KEPT_S", -1.0)
    system.error = None
    assert resolved("broker", 9092, 5.0) == FOUND


def test_a_broker_whose_name_is_not_resolved_holds_no_client_for_long(
    system: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_client, "LOOKUP_S", 0.1)
    began = time.monotonic()
    assert KafkaNetSocket().dns_lookup("broker", 9092) == []
    with pytest.raises(kafka_errors.KafkaConnectionError, match="not resolved within"):
        KafkaNetSocket().dns_lookup("broker", 9092, raise_error=True)
    assert time.monotonic() - began < 5
    system.there.set()
    eventually(none_is_asked)
    assert KafkaNetSocket().dns_lookup("broker", 9092) == FOUND


@pytest.mark.parametrize("name", ["a..b", "x" * 64, "\0"])
def test_a_broker_with_a_name_that_can_be_none_has_no_address(name: str) -> None:
    assert KafkaNetSocket().dns_lookup(name, 9092) == []


def test_a_command_says_once_that_a_broker_has_no_address(caplog: pytest.LogCaptureFixture) -> None:
    """The client asks for it many times meanwhile."""
    servers = "a..b:9092,127.0.0.1:1"
    with pytest.raises(Unavailable, match=r"answered within 1 s; no address is found for a\.\.b:9092$"):
        kafka_client.connect(KafkaAdminClient, servers, {}, timeout_s=1.0)
    assert [record.name for record in caplog.records if not record.name.startswith("kafka.")] == []
