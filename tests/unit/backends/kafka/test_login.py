"""The credentials of a connection. The brokers that accept them are in tests/integration/test_secure_kafka.py."""

import json
import socket
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest
from kafka.errors import KafkaConnectionError
from kafka.net.sasl import get_sasl_mechanism, msk

from tests.support.loopback import loopback
from tests.unit.backends.test_oauth import http
from workers.backends.kafka import login as kafka_login

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
BROKER = "b-1.cluster.kafka.eu-west-1.amazonaws.com"


def first_words(config: dict[str, Any], host: str = "broker") -> bytes:
    made = get_sasl_mechanism(config["sasl_mechanism"])(host=host, security_protocol="SASL_SSL", **config)
    return bytes(made.auth_bytes())


def test_a_password_is_asked_for_each_connection() -> None:
    passwords = iter(["when it is made", "first", "second"])
    config = kafka_login.by_password("PLAIN", "user", lambda: next(passwords))
    assert [first_words(config).split(b"\0")[-1] for _ in range(2)] == [b"first", b"second"]


def test_scram_takes_the_password_of_the_moment() -> None:
    passwords = iter(["when it is made", "first"])
    config = kafka_login.by_password("SCRAM-SHA-512", "user", lambda: next(passwords))
    made = get_sasl_mechanism("SCRAM-SHA-512")(host="broker", security_protocol="SASL_SSL", **config)
    assert made._scram_client.password == b"first"


def test_a_token_is_sent_as_the_standard_says() -> None:
    assert first_words(kafka_login.by_token(lambda: "abc.def")) == b"n,,\x01auth=Bearer abc.def\x01\x01"


def test_without_a_token_a_connection_ends_with_an_error_of_kafka_s_and_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def none() -> str:
        raise OSError("the token service is away")

    with pytest.raises(KafkaConnectionError, match="the token service is away"):
        first_words(kafka_login.by_token(none))
    assert caplog.messages == ["login to Kafka failed: the token service is away"]


class KnownMoment(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=tz)


@pytest.mark.parametrize(
    ("session", "signature"),
    [
        # as botocore 1.43's SigV4QueryAuth signs the same request
        (None, "df475a14fa259ac5540e27b7b796afa4913416e58ee45d9595433c4a4b5380d8"),
        ("session/token+with=signs", "50fcfb74f64ccab5d0283e75d8e86ef48161ae51ae237c543ee39314adc210cb"),
    ],
)
def test_aws_credentials_are_signed_as_aws_own_library_does_it(
    monkeypatch: pytest.MonkeyPatch, session: str | None, signature: str
) -> None:
    monkeypatch.setattr(msk.datetime, "datetime", KnownMoment)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    if session:
        monkeypatch.setenv("AWS_SESSION_TOKEN", session)
    said = json.loads(first_words(kafka_login.by_aws("eu-west-1"), BROKER))
    assert said["x-amz-signature"] == signature
    assert said["x-amz-credential"] == f"{KEY}/20260102/eu-west-1/kafka-cluster/aws4_request"
    assert said.get("x-amz-security-token") == session
    assert (said["host"], said["action"]) == (BROKER, "kafka-cluster:Connect")


def test_a_login_at_aws_is_done_once_the_broker_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """kafka-python's own beginnings are passed over with its search for botocore."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    config = kafka_login.by_aws("eu-west-1")
    for answer, taken in ((b'{"version":"2020_10_22"}', True), (b"", False)):
        login = get_sasl_mechanism("AWS_MSK_IAM")(host=BROKER, security_protocol="SASL_SSL", **config)
        assert not login.is_done()
        assert not login.is_authenticated()
        login.receive(answer)
        assert login.is_done()
        assert login.is_authenticated() == taken


def test_a_pod_s_credentials_are_asked_for_again_when_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = iter(["first", "second"])

    def answer(connection: socket.socket, _: bytes) -> None:
        until = (datetime.now(UTC) - timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        found = {"AccessKeyId": next(keys), "SecretAccessKey": SECRET, "Token": "t", "Expiration": until}
        connection.sendall(http("200 OK", json.dumps(found).encode()))

    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with loopback(answer) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.port}/v1/credentials")
        config = kafka_login.by_aws("eu-west-1")
        said = [json.loads(first_words(config))["x-amz-credential"] for _ in range(2)]
    assert [each.partition("/")[0] for each in said] == ["first", "second"]


def test_without_aws_credentials_a_connection_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/none")
    with pytest.raises(KafkaConnectionError, match="AWS gives no credentials"):
        first_words(kafka_login.by_aws("eu-west-1"))
    assert len(caplog.messages) == 1
