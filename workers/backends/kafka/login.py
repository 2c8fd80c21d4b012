"""Logs in to Kafka with the present password, token or AWS credentials.

kafka-python copies a password when it makes a client, which may connect for weeks. So changing secrets go through the
one setting that takes an object, `sasl_oauth_token_provider`, and our mechanisms ask that object. A connection with an
expired login (KIP-368) logs in again by itself.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from urllib.parse import quote, urlencode

import urllib3
from kafka.errors import KafkaConnectionError
from kafka.net.sasl import register_sasl_mechanism
from kafka.net.sasl.abc import SaslMechanism
from kafka.net.sasl.msk import AwsMskIamClient
from kafka.net.sasl.oauth import AbstractTokenProvider
from kafka.net.sasl.plain import SaslMechanismPlain
from kafka.net.sasl.scram import SaslMechanismScram
from minio.credentials.providers import ChainedProvider, EnvAWSProvider, IamAwsProvider, Provider
from pydantic import BaseModel, Field, ValidationError

from workers.backends.http_pool import ClockedPool
from workers.backends.renewal import Leased

logger = logging.getLogger(__name__)

_PROVIDER = "sasl_oauth_token_provider"


def by_password(mechanism: str, user: str, password: Callable[[], str]) -> dict[str, Any]:
    """Settings of kafka-python for PLAIN or SCRAM; `password` is called for each login."""
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": user,
        "sasl_plain_password": password(),
        _PROVIDER: _Asked(password),
    }


def by_token(token: Callable[[], str]) -> dict[str, Any]:
    """Settings of kafka-python for OAUTHBEARER (RFC 7628); `token` is called for each login."""
    return {"sasl_mechanism": "OAUTHBEARER", _PROVIDER: _Asked(token)}


def by_aws(region: str) -> dict[str, Any]:
    """Settings of kafka-python for AWS_MSK_IAM, with AWS' own credentials.

    They come from the environment, the service account's web identity, or the container's or machine's own service.
    """
    credentials = ChainedProvider([EnvAWSProvider(), IamAwsProvider(http_client=token_service_pool())])
    return {"sasl_mechanism": "AWS_MSK_IAM", _PROVIDER: partial(_signed, region, credentials)}


class _Asked(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python has no types
    """A secret that is read for each login."""

    def __init__(self, secret: Callable[[], str]) -> None:
        self._secret = secret

    def token(self) -> str:
        try:
            return self._secret()
        except (OSError, ValueError) as error:
            logger.warning("login to Kafka failed: %s", error)
            # An error of kafka-python ends the connection, and the next one asks again.
            raise KafkaConnectionError(f"no login: {error}") from error


class _Plain(SaslMechanismPlain):  # type: ignore[misc]
    def __init__(self, **config: Any) -> None:
        super().__init__(**_with_password(config))


class _Scram(SaslMechanismScram):  # type: ignore[misc]
    def __init__(self, **config: Any) -> None:
        super().__init__(**_with_password(config))


def _with_password(config: dict[str, Any]) -> dict[str, Any]:
    asked = config.get(_PROVIDER)
    return config if asked is None else {**config, "sasl_plain_password": asked.token()}


def _signed(region: str, credentials: Provider, host: str) -> AwsMskIamClient:
    try:
        found = credentials.retrieve()
    except (ValueError, OSError, KeyError, TypeError, TokenRefusal, urllib3.exceptions.HTTPError) as error:
        said = f"AWS gives no credentials: {type(error).__name__} {error}".rstrip()
        logger.warning("login to Kafka failed: %s", said)
        raise KafkaConnectionError(said) from error
    keys = {"access_key": found.access_key, "secret_key": found.secret_key, "token": found.session_token}
    return AwsMskIamClient(host=host, region=region, **keys)


class _MskIam(SaslMechanism):  # type: ignore[misc]
    """AWS_MSK_IAM with our credentials: kafka-python's own mechanism needs botocore."""

    def __init__(self, **config: Any) -> None:
        self._host: str = config["host"]
        self._signed: Callable[[str], AwsMskIamClient] = config[_PROVIDER]
        self._answer: bytes | None = None

    def auth_bytes(self) -> bytes:
        return bytes(self._signed(self._host).first_message())

    def receive(self, auth_bytes: bytes) -> None:
        self._answer = auth_bytes

    def is_done(self) -> bool:
        return self._answer is not None

    def is_authenticated(self) -> bool:
        return bool(self._answer)


register_sasl_mechanism("PLAIN", _Plain, overwrite=True)
register_sasl_mechanism("SCRAM-SHA-256", _Scram, overwrite=True)
register_sasl_mechanism("SCRAM-SHA-512", _Scram, overwrite=True)
register_sasl_mechanism("AWS_MSK_IAM", _MskIam, overwrite=True)


_CALL_S = 5.0
"""Time limit of a token service's answer; the login waits for it."""
_SHORTEST_LIFE_S = 10.0


class TokenRefusal(Exception):
    """A token service answered with an HTTP error."""

    def __init__(self, status: int, *_: object) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


_FAULTS = (TokenRefusal, urllib3.exceptions.HTTPError, ValidationError, OSError, ValueError)


def token_service_pool() -> ClockedPool:
    """A connection pool for token services; its deadlines cover whole answers."""
    return ClockedPool(connections=1, connect_s=2.0, request_s=_CALL_S, refusal=TokenRefusal)


class _TokenAnswer(BaseModel):
    """RFC 6749, section 5.1."""

    access_token: str = Field(min_length=1, max_length=32_768)
    token_type: Literal["bearer", "Bearer", "BEARER"] = "Bearer"
    expires_in: float = Field(default=300.0, gt=0, le=10**9)


@dataclass(eq=False)
class GrantedToken:
    """Returns the token of a token service, renewed in time. Thread-safe.

    By OAuth's client credentials (RFC 6749, section 4.4). Raises OSError: there is no valid token; the text says why
    and what to check.
    """

    endpoint: str
    client_id: str
    secret: Callable[[], str]
    scope: str = ""
    monotonic: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._http = token_service_pool()
        self._leased = Leased(
            "token", self._ask, _FAULTS, lambda error: OSError(self._failed(error)), _SHORTEST_LIFE_S, self.monotonic
        )

    def __call__(self) -> str:
        return self._leased()

    def _ask(self) -> tuple[str, float]:
        answer = _TokenAnswer.model_validate_json(self._answered())
        return answer.access_token, answer.expires_in

    def _answered(self) -> bytes:
        form = {"grant_type": "client_credentials"} | ({"scope": self.scope} if self.scope else {})
        # Section 2.3.1: both are encoded as a form's values before they make a user and a password.
        pair = f"{quote(self.client_id, safe='')}:{quote(self.secret(), safe='')}"
        headers = {
            "Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        body = urlencode(form)
        return bytes(self._http.urlopen("POST", self.endpoint, body=body, headers=headers).data)

    def _failed(self, error: Exception) -> str:
        where = f"the token service {self.endpoint}"
        match error:
            case TokenRefusal() if 400 <= error.status < 500:
                advice = "check TAGSTREAM_KAFKA_USER, TAGSTREAM_KAFKA_PASSWORD and TAGSTREAM_KAFKA_TOKEN_SCOPE"
                return f"{where} answered {error}: {advice}"
            case TokenRefusal():
                return f"{where} fails: {error}"
            case urllib3.exceptions.HTTPError() | TimeoutError():
                return f"{where} does not answer: {type(error).__name__}"
            case ValidationError():
                return f"{where} answers no token: is TAGSTREAM_KAFKA_TOKEN_ENDPOINT right?"
            case _:
                return f"{where} gives no token: {error}"
