"""Credentials of the object store that change: a renewed file, or a web identity.

Both are minio's `Provider`s, asked before every request and thread-safe. Missing credentials are an `Unavailable` with
fault "access" and advice: the worker waits and turns unready, and no object is blamed.
"""

from __future__ import annotations

import configparser
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree

import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider, WebIdentityProvider

from workers.backends.http_pool import ClockedPool
from workers.backends.renewal import Leased, RenewedFile, Secret, why
from workers.backends.s3.client import S3Refusal, meaning
from workers.environment import read_secret
from workers.errors import Unavailable

_CALL_S = 5.0
"""Time limit of the token service's answer; fetches wait for it."""
_REFUSED_S = 10.0
"""After the store refused them, new credentials are requested, but no sooner than this."""
_SHORTEST_LIFE_S = 60.0
_FAULTS = (S3Refusal, urllib3.exceptions.HTTPError, ElementTree.ParseError, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class WebIdentity:
    """A token in a file, to be exchanged for credentials.

    Args:
        token_file: read again for every exchange.
        sts_endpoint: URL of the token service: AWS', or the endpoint of MinIO itself.
        role_arn: the role to assume; empty: the token's own claims decide (MinIO).
    """

    token_file: Path
    sts_endpoint: str
    role_arn: str = ""
    session_name: str = "tagstream"


class FileCredentials(Provider):
    """A profile of AWS' credentials file, read again when it changes."""

    def __init__(self, path: Path, profile: str = "default") -> None:
        self._path = path
        self._file = RenewedFile(path, partial(_keys_of, profile))

    def retrieve(self) -> Credentials:
        try:
            return self._file()
        except (OSError, ValueError) as error:
            raise _unusable(self._path, error) from error

    def renew(self) -> None:
        self._file.forget()


class KeyFiles(Provider):
    """Keys that may each be in a file, as Secrets are mounted."""

    def __init__(self, access_key: Secret, secret_key: Secret) -> None:
        self._keys = access_key, secret_key

    def retrieve(self) -> Credentials:
        access_key, secret_key = (key() for key in self._keys)
        return Credentials(access_key, secret_key)

    def renew(self) -> None:
        for key in self._keys:
            key.forget()


class WebIdentityCredentials(Provider):
    """Credentials for a web identity, renewed in time."""

    def __init__(
        self, identity: WebIdentity, http: ClockedPool, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._identity = identity
        self._http = http
        self._leased = Leased(
            "credentials", self._exchange, _FAULTS, self._failed, shortest_s=_SHORTEST_LIFE_S, monotonic=monotonic
        )

    def retrieve(self) -> Credentials:
        return self._leased()

    def renew(self) -> None:
        self._leased.ask_within(_REFUSED_S)

    def _exchange(self) -> tuple[Credentials, float]:
        provider = WebIdentityProvider(
            jwt_provider_func=lambda: {"access_token": _token(self._identity.token_file)},
            sts_endpoint=self._identity.sts_endpoint,
            role_arn=self._identity.role_arn or None,
            role_session_name=self._identity.session_name,
            http_client=self._http,
        )
        with self._http.within(_CALL_S):
            found = provider.retrieve()
        if (ends := found.expiration) is None:
            return found, _SHORTEST_LIFE_S
        return found, (ends.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()  # minio keeps UTC without its zone

    def _failed(self, error: Exception) -> Unavailable:
        where = f"the token service {self._identity.sts_endpoint}"
        remedy = "is AWS_ENDPOINT_URL_STS right, and can it be reached?"
        match error:
            case S3Refusal() if meaning(error.answer) == "service":
                said = f"{where} fails: {error.answer.said}"
            case S3Refusal():
                said = f"{where} answered {error.answer.said} {error.answer.message}".rstrip()
                remedy = "check AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE"
            case OSError() if not isinstance(error, urllib3.exceptions.HTTPError):
                return _unusable(self._identity.token_file, error)
            case urllib3.exceptions.HTTPError():
                said = f"{where} does not answer: {type(error).__name__}"
            case _:
                said = f"{where} answers no credentials"
        return Unavailable("s3", said, fault="access", advice=f"{said}: {remedy}")


Renewable: TypeAlias = FileCredentials | KeyFiles | WebIdentityCredentials
"""Its `renew` gets other credentials for the next request: the store refused these."""


def _keys_of(profile: str, text: str) -> Credentials:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise ValueError("it is no INI file") from error
    values = {name: parser.get(profile, name, fallback="").strip() for name in _NAMES}
    if not values["aws_access_key_id"] or not values["aws_secret_access_key"]:
        raise ValueError(f"its section [{profile}] has no aws_access_key_id or no aws_secret_access_key")
    return Credentials(
        values["aws_access_key_id"], values["aws_secret_access_key"], values["aws_session_token"] or None
    )


_NAMES = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def _token(path: Path) -> str:
    token = read_secret(path).strip()
    if not token:
        raise OSError("it is empty")
    return token


def _unusable(path: Path, error: Exception) -> Unavailable:
    said = f"{path} holds no credentials: {why(error)}"
    return Unavailable("s3", said, fault="access", advice=said)
