"""The worker and the commands at a broker that asks for TLS, a login, or a certificate."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tagstream_testing.local.scratch import Scratch
from tests.fixtures import Stack, Unique, up_or_skip
from tests.support.broker import lag
from tests.support.command import Tagstream
from tests.support.ran import Ran
from tests.support.secure_kafka import AGAIN_S, PASSWORD, USER, SecureKafka, unsigned_token
from tests.support.waiting import eventually
from tests.support.worker_process import Site, photo, worker

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def broker(scratch: Scratch) -> Iterator[SecureKafka]:
    yield from up_or_skip(SecureKafka(scratch.path / "secure-kafka"))


@pytest.fixture
def site(broker: SecureKafka, stack: Stack, unique: Unique) -> Site:
    return Site(Stack(broker, stack.s3, stack.valkey), unique("line"))


def login(broker: SecureKafka, mechanism: str, password: str = PASSWORD) -> dict[str, str]:
    return {
        "TAGSTREAM_KAFKA_SERVERS": broker.login,
        "TAGSTREAM_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "TAGSTREAM_KAFKA_SASL_MECHANISM": mechanism,
        "TAGSTREAM_KAFKA_USER": USER,
        "TAGSTREAM_KAFKA_PASSWORD": password,
        "TAGSTREAM_KAFKA_TLS_CA": str(broker.authority.certificate),
    }


def certificate(broker: SecureKafka) -> dict[str, str]:
    ours, key = broker.authority.sign("worker")
    return {
        "TAGSTREAM_KAFKA_SERVERS": broker.mutual,
        "TAGSTREAM_KAFKA_SECURITY_PROTOCOL": "SSL",
        "TAGSTREAM_KAFKA_TLS_CA": str(broker.authority.certificate),
        "TAGSTREAM_KAFKA_TLS_CERT": str(ours),
        "TAGSTREAM_KAFKA_TLS_KEY": str(key),
    }


def token(broker: SecureKafka, file: Path) -> dict[str, str]:
    file.write_text(unsigned_token(USER, 600))
    return login(broker, "OAUTHBEARER") | {
        "TAGSTREAM_KAFKA_USER": "",
        "TAGSTREAM_KAFKA_PASSWORD": "",
        "TAGSTREAM_KAFKA_TOKEN_FILE": str(file),
    }


@pytest.mark.parametrize("way", ["SCRAM-SHA-512", "OAUTHBEARER", "certificate"])
def test_a_worker_that_proves_who_it_is_does_its_work_exactly_once(
    site: Site, broker: SecureKafka, tmp_path: Path, way: str
) -> None:
    for number in range(8):
        site.upload(f"{number}.jpg", photo(number))
    site.send([(site.own(f"{number % 8}.jpg"), ()) for number in range(24)])
    secure = (
        certificate(broker)
        if way == "certificate"
        else token(broker, tmp_path / "token")
        if way == "OAUTHBEARER"
        else login(broker, way)
    )
    with worker(site, "w", tmp_path, **secure) as process:
        eventually(
            lambda: not any(lag(broker.servers, site.name, [site.images]).values()) and len(site.outcomes()) == 24,
            60,
            process.said,
        )
        assert process.terminate() == 0, process.said()
    assert site.outcomes() == site.inputs()
    site.assert_in_order()


def test_a_worker_takes_a_new_password_from_its_file_while_it_works(
    site: Site, broker: SecureKafka, tmp_path: Path
) -> None:
    site.upload("0.jpg", photo(0))
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    secure = login(broker, "SCRAM-SHA-512", "") | {"TAGSTREAM_KAFKA_PASSWORD_FILE": str(password)}
    sent = 0
    try:
        with worker(site, "w", tmp_path, **secure) as process:
            until = float("inf")
            while time.monotonic() < until:
                site.send([(site.own("0.jpg"), ())])
                sent += 1
                eventually(lambda sent=sent: len(site.outcomes()) == sent, 60, process.said)  # type: ignore[misc]
                if sent == 3:
                    broker.add_user("another one")
                    password.write_text("another one")
                    until = time.monotonic() + 2 * AGAIN_S
            assert process.terminate() == 0, process.said()
    finally:
        broker.add_user()
    assert site.outcomes() == site.inputs()
    assert "Authentication failed" not in process.said()


Check = Callable[[dict[str, str]], Ran]


@pytest.fixture
def check(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tagstream: Tagstream) -> Check:
    def run(settings: dict[str, str]) -> Ran:
        for name in [name for name in os.environ if name.startswith("TAGSTREAM_")]:
            monkeypatch.delenv(name)
        for name, value in (site.settings("check") | settings | {"TAGSTREAM_STATE_DIR": str(tmp_path)}).items():
            monkeypatch.setenv(name, value)
        return tagstream("check")

    return run


def test_check_says_that_a_token_has_ended(check: Check, broker: SecureKafka, tmp_path: Path) -> None:
    settings = token(broker, tmp_path / "token")
    (tmp_path / "token").write_text(unsigned_token(USER, -60))
    found = check(settings)
    assert any("✗ Kafka" in line for line in found.out.splitlines())
    assert "Traceback" not in found.out + found.err
    assert found.code != 0


def test_check_says_yes_to_the_right_login(check: Check, broker: SecureKafka) -> None:
    found = check(login(broker, "PLAIN"))
    assert f"✓ Kafka: {broker.login} has the topics" in found.out
    assert found.code == 0, found.out + found.err


def test_check_says_what_may_be_wrong_when_the_password_is(check: Check, broker: SecureKafka) -> None:
    found = check(login(broker, "SCRAM-SHA-512", "another"))
    kafka = next(line for line in found.out.splitlines() if "✗ Kafka" in line)
    assert broker.login in kafka
    assert "password" in found.out
    assert "another" not in found.out + found.err
    assert "Traceback" not in found.out + found.err
    assert found.code != 0
