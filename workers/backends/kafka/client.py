"""Shared by all users of kafka-python: settings, errors, clients, hanging calls.

No exception of the client library leaves the backend; `mapped` turns them all into ours.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient

from workers.backends.kafka import internals
from workers.errors import Broken, Misconfigured, TagstreamError, Unavailable

logger = logging.getLogger(__name__)

Client = TypeVar("Client")
Security = Mapping[str, Any]
"""TLS and SASL settings by kafka-python's names: security_protocol, ssl_cafile, sasl_mechanism, …"""

CLIENT_ID = "tagstream"

_FIRST_TRY_S = 1.0
"""First time limit of a node among several."""

_SETUP: dict[str, Any] = {
    # It warns of each step above 0.1 s, which is common on a busy machine. The watchdogs see what hangs.
    "slow_task_threshold_secs": 0,
    # By the default a node that hangs costs 10 s each time that chance selects it.
    "socket_connection_setup_timeout_ms": 3_000,
    "socket_connection_setup_timeout_max_ms": 10_000,
}
"""Settings of the network client, which other clients don't accept by name."""

ANSWER_BYTES = 8 << 20
"""Maximum size of an answer without records: the names of some 100,000 partitions fit."""

FETCH_ANSWER_BYTES = 100_000_000
"""Maximum response size of a fetch. A response has whole batches, as large as their topic allows."""

SHARED: dict[str, Any] = {
    "client_id": CLIENT_ID,
    # The default of 30 s keeps a client away for as long after a broker has come back.
    "reconnect_backoff_max_ms": 800,
}

_NOT_ALLOWED = (
    kafka_errors.AuthorizationError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
)
_WRONG_SETTINGS = (
    kafka_errors.KafkaConfigurationError,
    kafka_errors.InconsistentGroupProtocolError,
    kafka_errors.InvalidSessionTimeoutError,
    kafka_errors.InvalidTransactionTimeoutError,
    kafka_errors.InvalidTopicError,
    kafka_errors.InvalidPartitionsError,
    kafka_errors.InvalidReplicationFactorError,
    kafka_errors.InvalidConfigurationError,
    kafka_errors.PolicyViolationError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.UnsupportedCodecError,
)


_MALFORMED = (kafka_errors.KafkaProtocolError, kafka_errors.UnknownBrokerIdError, kafka_errors.QuotaViolationError)
"""A broker's own faults, which kafka-python does not call retriable."""


def translated(doing: str, error: kafka_errors.KafkaError) -> TagstreamError:
    """Our error for one of kafka-python's; `doing` is such as "reading images"."""
    if isinstance(error, _NOT_ALLOWED):
        return Misconfigured(f"Kafka does not allow {doing}: {error}. Check the user's password and its ACLs")
    if isinstance(error, _WRONG_SETTINGS):
        return Misconfigured(f"Kafka refuses {doing}: {error}")
    if isinstance(error, kafka_errors.UnknownTopicOrPartitionError):
        return Misconfigured(f"{doing}: the topic does not exist; create it first")
    if passing(error) or isinstance(error, (kafka_errors.BrokerResponseError, *_MALFORMED)):
        return Unavailable("kafka", f"{doing}: {error}")
    return Broken(f"the Kafka client failed {doing}: {error}")


def no_such_topic(*topics: str) -> Misconfigured:
    """The error for missing topics."""
    return Misconfigured(
        "\n".join(
            f"the topic {topic!r} does not exist; create it first (`tagstream topics create`, or kafka-topics.sh "
            f"--create --topic {topic}), or correct what names it"
            for topic in topics
        )
    )


def require_among(known: Iterable[str], topics: Iterable[str]) -> None:
    """Raises Misconfigured: the cluster lacks some of these topics; the text names all of them."""
    there = set(known)
    if missing := [topic for topic in dict.fromkeys(topics) if topic not in there]:
        raise no_such_topic(*missing)


def passing(error: kafka_errors.KafkaError) -> bool:
    """Whether the same call may succeed later."""
    return bool(error.retriable)


@contextmanager
def mapped(doing: str) -> Iterator[None]:
    """Let no exception of kafka-python through. Raises Misconfigured, Unavailable, Broken: see `translated`."""
    try:
        yield
    except kafka_errors.KafkaError as error:
        raise translated(doing, error) from error


def connect(
    make: Callable[..., Client],
    servers: str,
    security: Security,
    *,
    timeout_s: float,
    answer_bytes: int = ANSWER_BYTES,
    **settings: Any,
) -> Client:
    """Make one of kafka-python's clients, which connect while they are made.

    Args:
        make: KafkaConsumer, KafkaProducer or KafkaAdminClient.
        servers: "host:port,host:port".
        answer_bytes: a broker that announces a longer answer is disconnected before it is read.

    Raises:
        Unavailable: no broker answered. kafka-python does not say why: a wrong password looks the same.
        Misconfigured: settings that can't work.
    """
    nodes = servers.split(",")
    sockets: list[KafkaNetClient] = []
    base = settings.pop("kafka_client", KafkaNetClient)

    def remember(**config: Any) -> KafkaNetClient:
        # By the client's own name the least is what its fetches may bring, also where it never fetches.
        sockets.append(base(**{**config, **_SETUP, "receive_message_max_bytes": answer_bytes}))
        return sockets[-1]

    for try_s in _tries(timeout_s, len(nodes)):
        try:
            return make(
                bootstrap_servers=nodes,
                bootstrap_timeout_ms=int(try_s * 1000),
                kafka_client=remember,
                **SHARED,
                **security,
                **settings,
            )
        except (OSError, ssl.SSLError, ValueError, AssertionError) as error:
            raise Misconfigured(f"the Kafka settings can't work: {error}") from error
        except kafka_errors.KafkaError as error:
            # A constructor that fails leaves its sockets and its thread behind.
            while sockets:
                sockets.pop().close()
            if not isinstance(error, kafka_errors.KafkaTimeoutError):
                raise translated(f"connecting to {servers}", error) from error
            silence = error
    if unknown := [node for node in nodes if not _has_address(node)]:
        why = f"none of {servers} answered within {timeout_s:g} s; no address is found for {', '.join(unknown)}"
    else:
        why = f"none of {servers} answered within {timeout_s:g} s; check the address, TLS and the password"
    raise Unavailable("kafka", why) from silence


def _has_address(node: str) -> bool:
    host, _, port = node.rpartition(":")
    try:
        return bool(socket.getaddrinfo(host.strip("[]"), int(port)))
    except (OSError, ValueError):
        return False


def _tries(timeout_s: float, nodes: int) -> Iterator[float]:
    """Seconds to wait for each try, until `timeout_s` is over.

    kafka-python gives one node of the list all the time: without shorter tries, one that hangs would hide the others.
    """
    left_s, try_s = timeout_s, _FIRST_TRY_S if nodes > 1 else timeout_s
    while left_s > 0:
        yield min(try_s, left_s)
        left_s -= try_s
        try_s *= 2


class RetryingNetClient(KafkaNetClient):  # type: ignore[misc]
    """The network client of a producer that outlives a broker's absence.

    kafka-python 3.0.12 loses a transaction's request if its connection can't be made: after an exception of
    `await_ready` the sender looks for the coordinator and does not requeue the request, so the thread that waits for
    the answer never returns. After the answer "not ready" it requeues the request.
    """

    RETRY_S = 0.1

    def await_ready(self, node_id: Any, timeout_ms: float = 30000) -> bool:
        try:
            return bool(super().await_ready(node_id, timeout_ms=timeout_ms))
        except kafka_errors.KafkaError as error:
            logger.debug("node %s is not ready: %s", node_id, error)
            time.sleep(self.RETRY_S)
            return False


class CallWatchdog:
    """Finds calls that the client has forgotten.

    A call is stuck if the brokers answered fresh connections for `limit_s` without a break while it waited.

    Args:
        limit_s: longer than an answer may take while the broker is there: the client's request timeout.
        answers: opens fresh connections and says whether every broker answered; may take seconds.
    """

    def __init__(self, limit_s: float, answers: Callable[[], bool], now: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._answers = answers
        self._now = now
        self._lock = threading.Lock()
        self._call: tuple[str, float] | None = None
        self._watched: tuple[str, float] | None = None
        self._answering_since: float | None = None

    @contextmanager
    def watching(self, call: str) -> Iterator[None]:
        """Context for one call of the watched thread."""
        with self._lock:
            self._call = (call, self._now())
        try:
            yield
        finally:
            with self._lock:
                self._call = None

    def check(self) -> str | None:
        """The stuck call, if there is one. Call it about every second, from one other thread."""
        with self._lock:
            call = self._call
        if call is None or self._now() - call[1] < min(1.0, self._limit_s / 2):
            self._answering_since = None
            return None
        if call != self._watched:
            self._watched, self._answering_since = call, None
        if not self._answers():
            self._answering_since = None
            return None
        if self._answering_since is None:
            self._answering_since = self._now()
        if self._now() - self._answering_since < self._limit_s:
            return None
        return f"{call[0]} has not returned for {self._now() - call[1]:.0f} s, while the brokers answer others"


def answers(servers: str, security: Security, *, timeout_s: float = 2.0) -> bool:
    """Whether every broker answers a fresh connection within `timeout_s`.

    The others name a dead broker until the controller gives it up (9 s by Kafka's defaults).
    """
    for node in servers.split(","):
        if (brokers := _named_by(node, security, timeout_s)) is not None:
            return all(_named_by(broker, security, timeout_s) is not None for broker in brokers - {node})
    return False


def _named_by(node: str, security: Security, timeout_s: float) -> set[str] | None:
    """host:port of the brokers that this node names; None: no answer."""
    client = KafkaNetClient(bootstrap_servers=[node], **SHARED, **_SETUP, **security)
    try:
        brokers = internals.brokers_named_by(client, timeout_s)
        named = ((f"[{broker.host}]" if ":" in broker.host else broker.host, broker.port) for broker in brokers or ())
        return None if brokers is None else {f"{host}:{port}" for host, port in named}
    finally:
        client.close()


def end_producer(producer: KafkaProducer, *, within_s: float) -> None:
    """Stop a producer; no message of it reaches a broker afterwards.

    `close` flushes first, and may raise before it stops the thread. Raises Broken: its thread does not stop.
    """
    try:
        producer.close(timeout=3)
    except kafka_errors.KafkaError as error:
        logger.debug("closing the producer: %s", error)
    if not internals.stop_sender(producer, within_s):
        raise Broken("the old Kafka producer's thread does not stop, and could still send messages")


def end_consumer(consumer: KafkaConsumer, *, within_s: float = 3.0) -> None:
    """Close a consumer; it leaves its group if a broker answers."""
    try:
        consumer.close(autocommit=False, timeout_ms=int(within_s * 1000))
    except kafka_errors.KafkaError as error:
        logger.debug("closing the consumer: %s", error)
    finally:
        # After an error, as of an unreachable coordinator, the connections are still open.
        internals.close_connections(consumer)


@contextmanager
def admin(servers: str, security: Security, *, timeout_s: float = 10.0) -> Iterator[KafkaAdminClient]:
    """An admin client for a few calls; its exceptions are mapped."""
    client = connect(KafkaAdminClient, servers, security, timeout_s=timeout_s)
    try:
        with mapped("asking the cluster"):
            yield client
    finally:
        client.close()
