"""kafka-python: its errors become ours, which private parts are used, and the clock that guards one of them."""

import re
import socket
import struct
import tomllib
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import kafka
import pytest
from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.producer.sender import Sender

import workers
from tests.support.loopback import loopback
from tests.support.waiting import bounded
from workers.backends.kafka import client as kafka_client
from workers.backends.kafka.client import CallWatchdog, RetryingNetClient, answers, connect, mapped, translated
from workers.backends.kafka.publisher import cause_of
from workers.errors import Broken, Misconfigured, Unavailable


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (kafka_errors.TopicAuthorizationFailedError({"images"}), Misconfigured),
        (kafka_errors.SaslAuthenticationFailedError("bad password"), Misconfigured),
        (kafka_errors.KafkaConfigurationError("no"), Misconfigured),
        (kafka_errors.UnknownTopicOrPartitionError("images"), Misconfigured),
        (kafka_errors.KafkaTimeoutError("late"), Unavailable),
        (kafka_errors.KafkaConnectionError("reset"), Unavailable),
        (kafka_errors.NotLeaderForPartitionError(), Unavailable),
        (kafka_errors.UnknownError(), Unavailable),
        (kafka_errors.IllegalStateError("closed"), Broken),
    ],
)
def test_each_error_of_the_client_maps_to_one_cause(error: kafka_errors.KafkaError, ours: type[Exception]) -> None:
    told = translated("reading images", error)
    assert type(told) is ours
    assert "reading images" in str(told)


def test_no_error_of_the_client_leaves_the_backend() -> None:
    with pytest.raises(Unavailable) as told, mapped("listing topics"):
        raise kafka_errors.KafkaTimeoutError("late")
    assert isinstance(told.value.__cause__, kafka_errors.KafkaTimeoutError)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (kafka_errors.CommitFailedError(kafka_errors.UnknownMemberIdError()), "membership"),
        (kafka_errors.IllegalGenerationError(), "membership"),
        (kafka_errors.ProducerFencedError(), "fenced"),
        (kafka_errors.KafkaError(kafka_errors.ProducerFencedError()), "fenced"),
        (kafka_errors.InvalidProducerEpochError(), "fenced"),
        (kafka_errors.KafkaTimeoutError("expired"), "timeout"),
        (kafka_errors.MessageSizeTooLargeError(), "size"),
        (kafka_errors.RecordListTooLargeError(), "size"),
        (kafka_errors.KafkaError(kafka_errors.KafkaError(kafka_errors.KafkaTimeoutError())), "timeout"),
        (kafka_errors.TopicAuthorizationFailedError({"out"}), "authorization"),
        (kafka_errors.KafkaConnectionError(), "broker"),
        (kafka_errors.NotLeaderForPartitionError(), "broker"),
    ],
)
def test_a_failed_run_has_one_word_for_its_cause(error: kafka_errors.KafkaError, cause: str) -> None:
    assert cause_of(error) == cause


def test_a_cause_is_found_behind_the_error_that_wraps_it() -> None:
    error = kafka_errors.KafkaError("Cannot execute transactional method")
    error.__cause__ = kafka_errors.ProducerFencedError()
    assert cause_of(error) == "fenced"


def test_no_server_at_the_address_is_said_in_a_sentence_and_leaves_no_socket_behind() -> None:
    with (
        bounded(),
        pytest.raises(Unavailable, match=r"none of 127\.0\.0\.1:\d+ answered within 0\.2 s; check the address"),
    ):
        connect(kafka.KafkaConsumer, f"127.0.0.1:{unused_port()}", {}, timeout_s=0.2)


def test_a_broker_name_without_an_address_is_named() -> None:
    servers = f"a..b:9092,127.0.0.1:{unused_port()}"
    with bounded(), pytest.raises(Unavailable, match=r"answered within 0\.3 s; no address is found for a\.\.b:9092$"):
        connect(kafka.KafkaAdminClient, servers, {}, timeout_s=0.3)


def test_settings_that_the_client_does_not_know_are_said_in_a_sentence() -> None:
    with pytest.raises(Misconfigured, match="ssl_moon"):
        connect(kafka.KafkaConsumer, f"127.0.0.1:{unused_port()}", {"ssl_moon": 1}, timeout_s=0.5)


def test_a_missing_certificate_is_reported_in_a_sentence() -> None:
    security = {"security_protocol": "SSL", "ssl_cafile": "/nowhere/ca.pem"}
    with pytest.raises((Misconfigured, Unavailable)):
        connect(kafka.KafkaConsumer, f"127.0.0.1:{unused_port()}", security, timeout_s=0.2)


def test_a_busy_machine_is_no_warning_of_the_library() -> None:
    made: list[KafkaNetClient] = []

    def make(**settings: Any) -> None:
        made.append(settings["kafka_client"](bootstrap_servers=[]))

    connect(make, "127.0.0.1:1", {}, timeout_s=1.0)
    [client] = made
    assert client._net.config["slow_task_threshold_secs"] == 0
    client.close()


def test_tls_and_sasl_settings_reach_every_client_unchanged() -> None:
    security = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "ssl_cafile": "ca.pem"}
    make = Mock()
    assert connect(make, "a:1", security, timeout_s=3, group_id="group") is make.return_value
    settings = make.call_args.kwargs
    assert settings["bootstrap_servers"] == ["a:1"]
    assert settings["bootstrap_timeout_ms"] == 3_000
    assert security.items() <= settings.items()
    assert settings["reconnect_backoff_max_ms"] <= 1_000


def test_a_node_that_hangs_is_not_waited_for_while_others_could_be_asked() -> None:
    """kafka-python chooses the node, and waits for it as long as it may."""
    client = object()
    make = Mock(
        side_effect=[kafka_errors.KafkaTimeoutError("a:1 hangs"), kafka_errors.KafkaTimeoutError("again"), client]
    )
    assert connect(make, "a:1,b:2", {}, timeout_s=30) is client
    waited = [call.kwargs["bootstrap_timeout_ms"] for call in make.call_args_list]
    assert waited == [1_000, 2_000, 4_000]
    assert all(call.kwargs["bootstrap_servers"] == ["a:1", "b:2"] for call in make.call_args_list)


def test_trying_several_nodes_ends_when_the_time_is_over() -> None:
    make = Mock(side_effect=kafka_errors.KafkaTimeoutError("all hang"))
    with pytest.raises(Unavailable, match="none of a:1,b:2 answered within 5 s"):
        connect(make, "a:1,b:2", {}, timeout_s=5)
    assert [call.kwargs["bootstrap_timeout_ms"] for call in make.call_args_list] == [1_000, 2_000, 2_000]


def test_a_node_that_hangs_is_given_up_while_a_connection_to_it_is_made() -> None:
    """The network client under each client sets the time; ten seconds by default."""
    client = connect(lambda **settings: settings["kafka_client"](bootstrap_servers="a:1"), "a:1", {}, timeout_s=1)
    try:
        config = client._manager.config
        assert config["socket_connection_setup_timeout_ms"] == 3_000
        assert config["receive_message_max_bytes"] == 8 << 20
    finally:
        client.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda _: struct.pack(">i", 2**31 - 1) + b"x" * 100, id="two gigabytes announced"),
        pytest.param(lambda _: struct.pack(">i", 99_000_000) + b"x" * 100, id="99 megabytes announced"),
        pytest.param(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n", id="another protocol"),
    ],
)
def test_a_server_that_is_no_broker_costs_its_time_and_little_memory(answer: Callable[[bytes], bytes]) -> None:
    """Guard: `receive_message_max_bytes`; the client allocates the announced size before the frame comes."""
    tracemalloc.start()
    with (
        bounded(),
        loopback(lambda connection, asked: connection.sendall(answer(asked[8:12]))) as server,
        pytest.raises(Unavailable, match="none of"),
    ):
        connect(kafka.KafkaConsumer, f"127.0.0.1:{server.port}", {}, timeout_s=0.4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_an_absent_broker_does_not_answer() -> None:
    assert not answers(f"127.0.0.1:{unused_port()}", {}, timeout_s=0.1)


@pytest.mark.parametrize(
    ("well", "all_answer"),
    [({"a:1", "b:2", "[::1]:3"}, True), ({"b:2", "[::1]:3"}, True), ({"a:1", "b:2"}, False), (set(), False)],
)
def test_a_cluster_answers_when_each_broker_that_it_names_does(
    monkeypatch: pytest.MonkeyPatch, well: set[str], all_answer: bool
) -> None:
    """It names b and ::1; a is an address of either. The client that is asked is a stand-in."""

    class Asked:
        def __init__(self, bootstrap_servers: list[str], **config: object) -> None:
            self._node = bootstrap_servers[0]
            self._manager = self
            self.cluster = SimpleNamespace(
                brokers=lambda: [SimpleNamespace(host="b", port=2), SimpleNamespace(host="::1", port=3)]
            )

        def bootstrap(self, timeout_ms: int) -> None:
            if self._node not in well:
                raise kafka_errors.KafkaTimeoutError(f"{self._node} within {timeout_ms} ms")

        def close(self) -> None: ...

    monkeypatch.setattr(kafka_client, "KafkaNetClient", Asked)
    assert answers("a:1,b:2", {}) is all_answer


def test_the_guard_is_for_the_versions_that_it_was_made_for() -> None:
    """After a new release, check: does the sender still call `await_ready`, and does it still raise?"""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    (pinned,) = re.findall(r"kafka-python==([\d.]+)", "\n".join(project["dependencies"]))
    assert kafka.__version__ == pinned
    assert f"pinned to {pinned}" in PAGE


class Unready(KafkaNetClient):  # type: ignore[misc]
    def __init__(self) -> None:
        pass

    def is_ready(self, node_id: Any) -> bool:
        return False

    def maybe_connect(self, node_id: Any, **kwargs: Any) -> None:
        pass

    @property
    def _manager(self) -> Any:
        return SimpleNamespace(_conns={}, cluster=None)


class PatientlyUnready(RetryingNetClient, Unready):
    pass


def offer(client: KafkaNetClient) -> Mock:
    manager = Mock()
    manager.is_completing.return_value = False
    manager.next_request_handler.return_value.needs_coordinator.return_value = True
    accumulator = SimpleNamespace(has_incomplete=False)
    sender = Sender(client, None, accumulator, transaction_manager=manager, request_timeout_ms=10, retry_backoff_ms=1)
    assert sender._maybe_send_pending_request()
    return manager


def test_without_the_guard_the_sender_forgets_a_request_to_an_unreachable_node() -> None:
    """When this fails, kafka-python has repaired it and the guard can go."""
    manager = offer(Unready())
    manager.retry.assert_not_called()


def test_with_the_guard_the_sender_puts_the_request_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RetryingNetClient, "RETRY_S", 0.01)
    manager = offer(PatientlyUnready())
    manager.retry.assert_called_once_with(manager.next_request_handler.return_value)


def test_a_producer_with_a_running_thread_is_not_replaced() -> None:
    producer = Mock(_sender=(sender := Mock()))
    sender.is_alive.return_value = True
    with pytest.raises(Broken, match="does not stop"):
        kafka_client.end_producer(producer, within_s=0.01)
    sender.force_close.assert_called_once()


def test_a_producer_is_ended_although_closing_it_raises() -> None:
    producer = Mock(_sender=(sender := Mock()))
    producer.close.side_effect = kafka_errors.KafkaTimeoutError("flush")
    sender.is_alive.return_value = False
    kafka_client.end_producer(producer, within_s=1)
    sender.force_close.assert_called_once()
    sender.join.assert_called_once_with(1)


def test_a_consumer_that_can_not_leave_its_group_closes_its_connections() -> None:
    consumer = Mock()
    consumer.close.side_effect = kafka_errors.NodeNotReadyError("the coordinator")
    kafka_client.end_consumer(consumer)
    consumer._client.close.assert_called_once_with()


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


PACKAGE = Path(workers.__file__).parent
PAGE = (PACKAGE / "backends" / "kafka" / "README.md").read_text()


class WatchedCall:
    """A broker that answers or not, and time that passes by hand."""

    def __init__(self, limit_s: float = 6.0) -> None:
        self.now = 0.0
        self.answers = True
        self.asked = 0
        self.clock = CallWatchdog(limit_s, self._answer, lambda: self.now)

    def _answer(self) -> bool:
        self.asked += 1
        return self.answers

    def pass_time(self, seconds: int) -> list[str | None]:
        said = []
        for _ in range(seconds):
            self.now += 1
            said.append(self.clock.check())
        return said


def test_a_call_is_stuck_once_the_broker_has_answered_others_for_the_whole_limit() -> None:
    scene = WatchedCall()
    scene.pass_time(30)
    with scene.clock.watching("the commit"):
        said = scene.pass_time(7)
    assert said[:-1] == [None] * 6
    assert said[-1] == "the commit has not returned for 7 s, while the brokers answer others"


def test_a_limit_of_a_second_asks_after_half_of_it() -> None:
    scene = WatchedCall(limit_s=1.0)
    with scene.clock.watching("the commit"):
        scene.now = 0.4
        scene.clock.check()
        assert scene.asked == 0
        scene.now = 0.5
        scene.clock.check()
        assert scene.asked == 1


def test_time_without_a_broker_does_not_count() -> None:
    scene = WatchedCall()
    scene.answers = False
    with scene.clock.watching("the commit"):
        assert scene.pass_time(60) == [None] * 60
        scene.answers = True
        assert scene.pass_time(6) == [None] * 6
        assert scene.pass_time(1) != [None]


def test_a_break_in_the_answers_starts_the_clock_again() -> None:
    scene = WatchedCall()
    with scene.clock.watching("the commit"):
        scene.pass_time(5)
        scene.answers = False
        scene.pass_time(1)
        scene.answers = True
        assert scene.pass_time(6) == [None] * 6


def test_no_broker_is_asked_while_no_call_is_in_progress_or_it_is_young() -> None:
    scene = WatchedCall()
    scene.pass_time(3)
    with scene.clock.watching("the commit"):
        scene.now += 0.5
        assert scene.clock.check() is None
    assert scene.asked == 0


def test_a_call_that_raises_is_over() -> None:
    scene = WatchedCall()
    with pytest.raises(KeyError), scene.clock.watching("the commit"):
        raise KeyError
    assert scene.pass_time(20) == [None] * 20
