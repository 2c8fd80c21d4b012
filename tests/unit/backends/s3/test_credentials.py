"""Credentials that change while the worker runs: a file, and a web identity at a token service on loopback."""

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tagstream_testing.memory import ManualClock
from tests.support.loopback import Answer, Loopback, loopback
from tests.unit.backends.s3.test_store import GOOD, fault, message, says
from workers import environment
from workers.assembly.clients import object_store
from workers.backends.http_pool import ClockedPool
from workers.backends.s3.client import S3Refusal
from workers.backends.s3.credentials import FileCredentials, WebIdentity, WebIdentityCredentials
from workers.backends.s3.store import MinioObjectStore
from workers.errors import Misconfigured, Unavailable


def profile(key: str, secret: str = "100%secret", token: str = "") -> str:
    lines = ["[other]", "aws_access_key_id = no", "[default]", f"aws_access_key_id = {key}"]
    lines += [f"aws_secret_access_key = {secret}"] + ([f"aws_session_token = {token}"] if token else [])
    return "\n".join(lines) + "\n"


def read(store: MinioObjectStore) -> None:
    store.get("bucket", "k", version_id=None, etag=None, max_bytes=9, deadline_s=5)


def asked_with(request: bytes) -> tuple[str, str]:
    key = re.search(rb"Credential=([^/]+)/", request)
    token = re.search(rb"(?i)x-amz-security-token: ([^\r]+)", request)
    return key[1].decode() if key else "", token[1].decode() if token else ""


def test_a_credentials_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.write_text(profile("first", token="one"))
    with loopback(says(GOOD)) as server:
        store = MinioObjectStore(f"http://127.0.0.1:{server.port}", "", "", "r", login=FileCredentials(path))
        read(store)
        path.write_text(profile("second", token="two, which is longer"))
        read(store)
        renewed = tmp_path / "renewed"  # as Kubernetes and careful tools replace a file
        renewed.write_text(profile("third"))
        renewed.replace(path)
        read(store)
        assert [asked_with(request) for request in server.received] == [
            ("first", "one"),
            ("second", "two, which is longer"),
            ("third", ""),
        ]


def test_a_session_token_travels_with_its_key() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "temporary", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token"}
    with loopback(says(GOOD)) as server:
        place = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.port}", "TAGSTREAM_S3_REGION": "r"}
        read(object_store(environment.read(keys | place)))
        assert [asked_with(request) for request in server.received] == [("temporary", "token")]


NO_KEYS = "its section [default] has no aws_access_key_id or no aws_secret_access_key"


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("", NO_KEYS),
        ("[default]\naws_access_key_id = key\n", NO_KEYS),
        ("[default]\naws_secret_access_key = secret\n", NO_KEYS),
        ("[default]\naws_acc", "it is no INI file"),
        (None, "No such file or directory"),
    ],
)
def test_a_half_written_or_missing_file_leaves_the_last_credentials_and_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str | None, why: str
) -> None:
    path = tmp_path / "credentials"
    path.write_text(profile("first"))
    found = FileCredentials(path)
    assert found.retrieve().access_key == "first"
    for times in (1, 2):
        if damage is None:
            path.unlink()
        else:
            path.write_text(damage)
        last = found.retrieve().access_key
        assert [found.retrieve().access_key for _ in range(2)] == [last] * 2
        assert len(caplog.messages) == times
        assert caplog.messages[-1].startswith(f"{path} can't be used now; using its last content: {why}")
        path.write_text(profile("after" * times))
        assert found.retrieve().access_key == "after" * times


@pytest.mark.parametrize(
    ("answer", "renewed"),
    [(fault("403 Forbidden", "InvalidAccessKeyId"), True), (fault("403 Forbidden", "AccessDenied"), False)],
)
def test_a_store_that_knows_the_key_no_more_has_its_file_read_again(
    tmp_path: Path, answer: bytes, renewed: bool
) -> None:
    path = tmp_path / "credentials"
    path.write_text(profile("old"))
    before = path.stat()
    with loopback(says(GOOD, answer, GOOD)) as server:
        store = MinioObjectStore(f"http://127.0.0.1:{server.port}", "", "", "r", login=FileCredentials(path))
        read(store)
        path.write_text(profile("new"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(Unavailable):
            read(store)
        read(store)
        assert [asked_with(request)[0] for request in server.received] == ["old", "old", "new" if renewed else "old"]


def test_a_file_that_never_held_credentials_is_our_own_fault(tmp_path: Path) -> None:
    path = tmp_path / "none"
    store = MinioObjectStore("http://127.0.0.1:1", "", "", "r", login=FileCredentials(path))
    with pytest.raises(Unavailable, match="none") as raised:
        read(store)
    assert raised.value.fault == "access"
    assert str(path) in raised.value.advice
    with pytest.raises(Misconfigured, match="none"):
        store.check("bucket")


def granted(key: str, life_s: float = 3600.0) -> bytes:
    until = (datetime.now(UTC) + timedelta(seconds=life_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = (
        '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
        "<AssumeRoleWithWebIdentityResult><Credentials>"
        f"<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
        f"<SessionToken>token-of-{key}</SessionToken><Expiration>{until}</Expiration>"
        "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    )
    return message("200 OK", "Content-Type: text/xml", body=body.encode())


class Service:
    """A provider at a token service, on a clock that the test owns."""

    def __init__(self, server: Loopback, folder: Path) -> None:
        self.server = server
        self.token = folder / "token"
        self.token.write_text("jwt-1\n")
        self.clock = ManualClock()
        self._http = ClockedPool(connections=2, connect_s=1.0, request_s=2.0, refusal=S3Refusal.of, ca_certs="")
        identity = WebIdentity(self.token, f"http://127.0.0.1:{server.port}", "arn:aws:iam::1:role/r")
        self.provider = WebIdentityCredentials(identity, self._http, self.clock.monotonic)

    def key(self) -> str:
        return self.provider.retrieve().access_key

    def close(self) -> None:
        self._http.clear()

    def asked(self) -> list[dict[str, list[str]]]:
        lines = [request.split(b" ", 2) for request in self.server.received]
        assert all(method == b"POST" for method, *_ in lines)
        return [parse_qs(urlsplit(path.decode()).query) for _, path, _ in lines]


@contextmanager
def service(answer: Answer, folder: Path) -> Iterator[Service]:
    with loopback(answer) as server, closing(Service(server, folder)) as made:
        yield made


def test_a_web_identity_is_exchanged_once_and_again_before_its_credentials_expire(tmp_path: Path) -> None:
    with service(says(granted("first"), granted("second")), tmp_path) as sts:
        assert [sts.key() for _ in range(3)] == ["first"] * 3
        sts.clock.advance(2_800)
        assert sts.key() == "first"
        sts.token.write_text("jwt-2")
        sts.clock.advance(200)
        assert sts.key() == "second"
        asked = sts.asked()
    assert [each["WebIdentityToken"] for each in asked] == [["jwt-1"], ["jwt-2"]]
    assert asked[0]["RoleArn"] == ["arn:aws:iam::1:role/r"]
    assert asked[0]["Action"] == ["AssumeRoleWithWebIdentity"]


def test_while_the_token_service_is_away_the_last_credentials_serve_until_they_expire(tmp_path: Path) -> None:
    away = fault("503 Service Unavailable", "ServiceUnavailable")
    with service(says(granted("first"), away), tmp_path) as sts:
        sts.key()
        sts.clock.advance(3_000)
        assert sts.key() == "first"
        sts.clock.advance(700)
        with pytest.raises(Unavailable) as raised:
            sts.key()
        assert raised.value.fault == "access", "without credentials nothing can be read"
        assert "AWS_ENDPOINT_URL_STS" in raised.value.advice


def test_credentials_that_the_store_refuses_are_renewed_before_their_time(tmp_path: Path) -> None:
    with service(says(granted("first"), granted("second")), tmp_path) as sts:
        sts.key()
        sts.provider.renew()
        assert sts.key() == "first", "not at once: every thread that was refused says so"
        sts.clock.advance(10.1)
        assert sts.key() == "second"


@pytest.mark.parametrize(
    "answer",
    [
        fault("400 Bad Request", "InvalidIdentityToken"),
        fault("403 Forbidden", "AccessDenied"),
        message("200 OK", body=b"<html>"),
        message("200 OK", body=b"<a>" * 200_000),
        message("307 Temporary Redirect", "Location: http://127.0.0.1:1/"),
        message("200 OK", body=b"<AssumeRoleWithWebIdentityResponse/>"),
    ],
)
def test_a_refused_identity_is_our_fault_and_the_token_stays_secret(answer: bytes, tmp_path: Path) -> None:
    with service(says(answer), tmp_path) as sts:
        for _ in range(3):
            with pytest.raises(Unavailable) as raised:
                sts.key()
            assert "jwt" not in f"{raised.value} {raised.value.advice}"
        assert len(sts.server.received) == 1, "not at once again"


def test_a_missing_token_is_our_fault(tmp_path: Path) -> None:
    with service(says(granted("never")), tmp_path) as sts:
        sts.token.unlink()
        with pytest.raises(Unavailable) as raised:
            sts.key()
        assert raised.value.fault == "access"
        assert str(sts.token) in raised.value.advice


def test_a_store_is_read_with_the_credentials_of_a_web_identity(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("jwt")
    with loopback(says(granted("granted"))) as sts, loopback(says(GOOD)) as server:
        identity = WebIdentity(tmp_path / "token", f"http://127.0.0.1:{sts.port}")
        store = MinioObjectStore(f"http://127.0.0.1:{server.port}", "", "", "r", login=identity)
        read(store)
        assert asked_with(server.received[0]) == ("granted", "token-of-granted")
