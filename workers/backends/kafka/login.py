"""How connections to Kafka log in: with a password, a token or AWS credentials, each as it is at that moment.

kafka-python copies a password when a client is made, which may then connect for weeks. What can change goes through the
one field of its settings that takes an object instead, `sasl_oauth_token_provider`, and our mechanisms ask that.
Connections whose login ends (KIP-368) log in again by themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import urllib3
from kafka.errors import KafkaConnectionError
from kafka.net.sasl import register_sasl_mechanism
from kafka.net.sasl.msk import AwsMskIamClient, SaslMechanismAwsMskIam
from kafka.net.sasl.oauth import AbstractTokenProvider
from kafka.net.sasl.plain import SaslMechanismPlain
from kafka.net.sasl.scram import SaslMechanismScram
from minio.credentials.providers import ChainedProvider, EnvAWSProvider, IamAwsProvider, Provider

from workers.backends.oauth import token_service_pool
from workers.backends.s3.client import S3Refusal

logger = logging.getLogger(__name__)

_PROVIDER = "sasl_oauth_token_provider"


def by_password(mechanism: str, user: str, password: Callable[[], str]) -> dict[str, Any]:
    """Settings of kafka-python for PLAIN or SCRAM.

    Args:
        password: called for each login.
    """
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": user,
        "sasl_plain_password": password(),
        _PROVIDER: _Asked(password),
    }


def by_token(token: Callable[[], str]) -> dict[str, Any]:
    """Settings of kafka-python for OAUTHBEARER (RFC 7628).

    Args:
        token: called for each login.
    """
    return {"sasl_mechanism": "OAUTHBEARER", _PROVIDER: _Asked(token)}


def by_aws(region: str) -> dict[str, Any]:
    """Settings of kafka-python for AWS_MSK_IAM, with AWS' own credentials.

    They come from the environment, the service account's web identity, or the container's or machine's own service.
    """
    return {"sasl_mechanism": "AWS_MSK_IAM", _PROVIDER: _Aws(region, _aws_credentials())}


class _Asked(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python has no types
    """A secret that is read anew for each login."""

    def __init__(self, secret: Callable[[], str]) -> None:
        self._secret = secret

    def token(self) -> str:
        try:
            return self._secret()
        except (OSError, ValueError) as error:
            logger.warning("no login at Kafka: %s", error)
            # One of kafka-python's own: it ends the connection, and the next one asks again.
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


class _Aws:
    """Who we are at AWS; only our own mechanism asks for it."""

    def __init__(self, region: str, credentials: Provider) -> None:
        self.region = region
        self._credentials = credentials

    def signed(self, host: str) -> AwsMskIamClient:
        """What proves to this broker who we are, now."""
        try:
            found = self._credentials.retrieve()
        except (ValueError, OSError, KeyError, TypeError, S3Refusal, urllib3.exceptions.HTTPError) as error:
            said = f"AWS gives no credentials: {type(error).__name__} {error}".rstrip()
            logger.warning("no login at Kafka: %s", said)
            raise KafkaConnectionError(said) from error
        return AwsMskIamClient(
            host=host,
            access_key=found.access_key,
            secret_key=found.secret_key,
            region=self.region,
            token=found.session_token,
        )


class _MskIam(SaslMechanismAwsMskIam):  # type: ignore[misc]
    """kafka-python's, with credentials of ours: its own would need botocore."""

    def __init__(self, **config: Any) -> None:
        self.host = config["host"]
        self._aws: _Aws = config[_PROVIDER]
        self._is_done = self._is_authenticated = False

    def _build_client(self) -> AwsMskIamClient:
        return self._aws.signed(self.host)


register_sasl_mechanism("PLAIN", _Plain, overwrite=True)
register_sasl_mechanism("SCRAM-SHA-256", _Scram, overwrite=True)
register_sasl_mechanism("SCRAM-SHA-512", _Scram, overwrite=True)
register_sasl_mechanism("AWS_MSK_IAM", _MskIam, overwrite=True)


def _aws_credentials() -> Provider:
    return ChainedProvider([EnvAWSProvider(), IamAwsProvider(http_client=token_service_pool())])
