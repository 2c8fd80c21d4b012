"""Tokens by the client credentials grant, from a token service on loopback."""

import base64
import gzip
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import pytest

from tagstream_testing.memory import ManualClock
from tests.support.loopback import loopback
from workers.backends.kafka.login import GrantedToken


def http(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def granted(token: str, life_s: float | None = 100.0) -> bytes:
    document = {"access_token": token, "token_type": "Bearer"} | ({} if life_s is None else {"expires_in": life_s})
    return http("200 OK", json.dumps(document).encode())


@dataclass
class Service:
    """A token service that says each of these once, and the last one ever after."""

    says: list[bytes]
    asked: list[bytes] = field(default_factory=list)
    """Each request whole: its head and its body may come in two pieces."""
    part: bytes = b""

    def __call__(self, connection: socket.socket, chunk: bytes) -> None:
        self.part += chunk
        head, ended, body = self.part.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if not ended or length is None or len(body) < int(length[1]):
            return
        self.asked.append(self.part)
        self.part = b""
        connection.sendall(self.says.pop(0) if len(self.says) > 1 else self.says[0])


@contextmanager
def service(
    *says: bytes, scope: str = "", secret: Callable[[], str] = lambda: "pass word"
) -> Iterator[tuple[GrantedToken, Service, ManualClock]]:
    answers = Service(list(says))
    clock = ManualClock()
    with loopback(answers) as server:
        endpoint = f"http://127.0.0.1:{server.port}/token"
        yield GrantedToken(endpoint, "us:er", secret, scope, clock.monotonic), answers, clock


def test_a_token_is_asked_for_as_the_standard_says() -> None:
    with service(granted("one"), scope="kafka read") as (token, asked, _):
        assert token() == "one"
        head, _, body = asked.asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /token HTTP/1.1")
    login = f"Basic {base64.b64encode(b'us%3Aer:pass%20word').decode()}"
    assert f"authorization: {login}".lower() in head.decode().lower()
    assert parse_qs(body.decode()) == {"grant_type": ["client_credentials"], "scope": ["kafka read"]}


@pytest.mark.parametrize(("life_s", "used_s"), [(100.0, 79), (None, 239)])
def test_a_token_is_used_for_most_of_its_life_or_some_minutes_and_then_renewed(
    life_s: float | None, used_s: float
) -> None:
    with service(granted("one", life_s), granted("two")) as (token, asked, clock):
        assert token() == token() == "one"
        clock.advance(used_s)
        assert token() == "one"
        clock.advance(2)
        assert token() == "two"
        assert len(asked.asked) == 2


def test_while_the_service_is_away_the_last_token_is_used_until_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    with service(granted("one"), http("503 Busy", b""), granted("two")) as (token, asked, clock):
        assert token() == "one"
        clock.advance(90)
        assert token() == token() == "one"
        assert len(asked.asked) == 2, "it is not asked again at once"
        assert "HTTP 503" in caplog.text
        clock.advance(5)
        assert token() == "two"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (http("401 No", b'{"error":"invalid_client"}'), "check TAGSTREAM_KAFKA_USER, TAGSTREAM_KAFKA_PASSWORD"),
        (http("400 No", b'{"error":"invalid_scope"}'), "check TAGSTREAM_KAFKA_USER, TAGSTREAM_KAFKA_PASSWORD"),
        (http("499 No", b""), "check TAGSTREAM_KAFKA_USER, TAGSTREAM_KAFKA_PASSWORD"),
        (http("500 Oh No", b""), "fails: HTTP 500"),
        (http("302 Found", b""), "fails: HTTP 302"),
        (http("200 OK", b"<html>"), "is TAGSTREAM_KAFKA_TOKEN_ENDPOINT right?"),
        (http("200 OK", b'{"access_token":""}'), "is TAGSTREAM_KAFKA_TOKEN_ENDPOINT right?"),
        (http("200 OK", b'{"access_token":"t","token_type":"mac"}'), "is TAGSTREAM_KAFKA_TOKEN_ENDPOINT right?"),
        (http("200 OK", b'{"access_token":"t","expires_in":-1}'), "is TAGSTREAM_KAFKA_TOKEN_ENDPOINT right?"),
        (http("200 OK", b'{"access_token":"' + b"t" * 40_000 + b'"}'), "is TAGSTREAM_KAFKA_TOKEN_ENDPOINT right?"),
        (
            http("200 OK\r\nContent-Encoding: gzip", gzip.compress(b'{"access_token":"t"}')),  # without a request
            "is TAGSTREAM_KAFKA_TOKEN_ENDPOINT right?",
        ),
        (http("200 OK", b"[" * 70_000), "is TAGSTREAM_KAFKA_TOKEN_ENDPOINT right?"),
        (b"garbage\r\n\r\n", "does not answer"),
    ],
)
def test_an_invalid_token_is_reported_in_a_sentence_without_the_secret(answer: bytes, why: str) -> None:
    with service(answer) as (token, _, _clock), pytest.raises(OSError, match="the token service http") as raised:
        token()
    assert why in str(raised.value)
    assert "pass word" not in str(raised.value)


def test_after_an_answer_that_is_too_large_the_next_question_is_answered() -> None:
    """Guard: the connection is given back; there is one, and it has the rest of that answer before it."""
    with service(http("200 OK", b"[" * (8 << 20) + b"["), granted("one")) as (token, _, clock):
        with pytest.raises(OSError, match="TooLargeAnswer"):
            token()
        clock.advance(1)
        assert token() == "one"


def test_a_changed_secret_is_used_for_the_next_token() -> None:
    secrets = iter(["old", "new"])
    with service(granted("one", 1.0), secret=lambda: next(secrets)) as (token, asked, clock):
        token()
        clock.advance(60)
        token()
    sent = [base64.b64encode(f"us%3Aer:{each}".encode()) for each in ("old", "new")]
    assert all(login in request for login, request in zip(sent, asked.asked, strict=True))
