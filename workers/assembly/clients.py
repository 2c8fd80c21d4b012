"""Builds the clients of Kafka, object store and Redis from the settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from workers.backends.kafka import KafkaPublisher, KafkaRecordSource
from workers.backends.kafka import login as kafka_login
from workers.backends.kafka.corrections import KafkaCorrections
from workers.backends.kafka.login import GrantedToken
from workers.backends.renewal import RenewedFile, Secret, one_line
from workers.backends.s3.credentials import FileCredentials, KeyFiles, WebIdentity
from workers.backends.s3.store import MinioObjectStore
from workers.backends.scoped_cache import NoCache, ScopedCache
from workers.environment import require
from workers.errors import Misconfigured
from workers.ports import Publisher, RecordSource, ResultCache
from workers.settings import Settings
from workers.types import NO_MEMBERSHIP, Membership

if TYPE_CHECKING:
    from workers.backends.result_cache import RedisResultCache

CONNECT_S = 5.0
"""One try to reach a broker. Short, so that a worker that waits for one can still be stopped."""


def servers(settings: Settings) -> str:
    return ",".join(require(settings, "kafka_servers").kafka_servers)


def security(settings: Settings) -> dict[str, Any]:
    """TLS and SASL settings by kafka-python's names."""
    found: dict[str, Any] = {"security_protocol": settings.kafka_security_protocol}
    if settings.kafka_security_protocol.endswith("SSL"):
        files = {
            "ssl_cafile": settings.kafka_tls_ca,
            "ssl_certfile": settings.kafka_tls_cert,
            "ssl_keyfile": settings.kafka_tls_key,
        }
        found |= {name: str(path) for name, path in files.items() if path is not None}
        if password := settings.kafka_tls_key_password.get_secret_value():
            found["ssl_password"] = password
    if settings.kafka_security_protocol.startswith("SASL"):
        found |= _login(settings)
    return found


def _login(settings: Settings) -> dict[str, Any]:
    mechanism = settings.kafka_sasl_mechanism
    if mechanism == "AWS_MSK_IAM":
        return kafka_login.by_aws(settings.aws_region)
    password = secret(settings, "kafka_password")
    if mechanism != "OAUTHBEARER":
        return kafka_login.by_password(mechanism, settings.kafka_user, password)
    if settings.kafka_token_file is not None:
        return kafka_login.by_token(RenewedFile(settings.kafka_token_file, one_line))
    user, scope = settings.kafka_user, settings.kafka_token_scope
    return kafka_login.by_token(GrantedToken(settings.kafka_token_endpoint, user, password, scope))


def secret(settings: Settings, field: str) -> Secret:
    """A secret of the settings, by its field."""
    return Secret(getattr(settings, field).get_secret_value(), settings.secret_files.get(field))


def _login_to_store(settings: Settings) -> tuple[str, FileCredentials | KeyFiles | WebIdentity | None]:
    """Where the keys come from, for people; and the login, if renewed."""
    token, file = settings.aws_web_identity_token_file, settings.aws_shared_credentials_file
    if settings.s3_access_key:
        keys = [secret(settings, field) for field in ("s3_access_key", "s3_secret_key")]
        renewed = settings.secret_files.keys() & {"s3_access_key", "s3_secret_key"}
        return "TAGSTREAM_S3_ACCESS_KEY and TAGSTREAM_S3_SECRET_KEY", KeyFiles(*keys) if renewed else None
    if settings.aws_access_key_id:
        return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", None
    if token is not None:
        return str(token), WebIdentity(token, sts_endpoint(settings), settings.aws_role_arn)
    if file is not None:
        return str(file), FileCredentials(file, settings.aws_profile or "default")
    return "", None


def object_store(settings: Settings) -> MinioObjectStore:
    """The object store; sends no request yet.

    Raises Misconfigured: its endpoint is not set, or there can be no such one.
    """
    require(settings, "s3_endpoint")
    keys_from, login = _login_to_store(settings)
    try:
        return MinioObjectStore(
            settings.s3_endpoint,
            (settings.s3_access_key or settings.aws_access_key_id).get_secret_value(),
            (settings.s3_secret_key or settings.aws_secret_access_key).get_secret_value(),
            settings.s3_region,
            session_token=settings.aws_session_token.get_secret_value(),
            login=login,
            keys_from=keys_from,
            connections=settings.fetch_threads,
            retry_s=settings.retry_s,
        )
    except ValueError as error:
        raise Misconfigured(f"{error}: correct TAGSTREAM_S3_ENDPOINT or TAGSTREAM_S3_REGION") from error


def redis(settings: Settings) -> RedisResultCache | None:
    """The Redis client, or None without a URL; use `result_cache` for entries."""
    url = settings.redis_url.get_secret_value()
    if not url:
        return None
    # Imported here: it takes longer than any other client but Kafka's, and many workers have no cache.
    from workers.backends.result_cache import RedisResultCache

    now = secret(settings, "redis_url") if "redis_url" in settings.secret_files else None
    return RedisResultCache(url, ttl_s=settings.cache_ttl_s, timeout_s=settings.cache_timeout_s, now=now)


def sts_endpoint(settings: Settings) -> str:
    """The token service: AWS' in the region, or else the store's own address."""
    if settings.aws_endpoint_url_sts:
        return settings.aws_endpoint_url_sts
    host = urlsplit(settings.s3_endpoint).hostname or ""
    for domain in ("amazonaws.com", "amazonaws.com.cn"):
        if host.endswith(f".{domain}"):
            region = settings.aws_region or settings.s3_region
            return f"https://sts.{region}.{domain}" if region else f"https://sts.{domain}"
    return settings.s3_endpoint


def result_cache(settings: Settings) -> ResultCache:
    server = redis(settings)
    if server is None:
        return NoCache()
    key = settings.cache_key.get_secret_value().encode()
    return ScopedCache(server, namespace=settings.cache_namespace, key=key)


def output_topics(settings: Settings) -> list[str]:
    named = (settings.output_topic, settings.dead_letter_topic, settings.skipped_topic)
    return list(dict.fromkeys(topic for topic in named if topic))


def record_source(
    settings: Settings, group: str | None = None, topics: Sequence[str] | None = None
) -> KafkaRecordSource:
    """The reader of the input topics, or of other topics."""
    return KafkaRecordSource(
        servers(settings),
        group or settings.group,
        topics or settings.topics,
        security=security(settings),
        session_timeout_s=settings.kafka_session_timeout_s,
        batch_bytes=settings.batch_bytes,
        isolation=settings.input_isolation if topics is None else "read_committed",
        connect_timeout_s=CONNECT_S,
    )


def corrections(settings: Settings) -> KafkaCorrections | None:
    """The reader of the corrections topic; None if no topic is set."""
    if not settings.corrections_topic:
        return None
    return KafkaCorrections(
        servers(settings),
        settings.corrections_topic,
        max_bytes=settings.corrections_bytes,
        security=security(settings),
        people=settings.corrections_by,
    )


def publisher(settings: Settings, source: RecordSource, transactional_id: str) -> Publisher:
    return KafkaPublisher(
        servers(settings),
        settings.group,
        transactional_id,
        membership=source.membership,
        output_topics=output_topics(settings),
        delivery=settings.delivery,
        offset_reset=settings.offset_reset,
        commit=source.commit,
        security=security(settings),
        transaction_timeout_s=settings.kafka_transaction_timeout_s,
        connect_timeout_s=CONNECT_S,
    )


def own_publisher(
    settings: Settings, name: str, topics: Sequence[str], membership: Callable[[], Membership] = lambda: NO_MEMBERSHIP
) -> KafkaPublisher:
    """The exactly-once publisher of a command, with its own transactional id."""
    return KafkaPublisher(
        servers(settings),
        name,
        name,
        membership=membership,
        output_topics=topics,
        security=security(settings),
        transaction_timeout_s=settings.kafka_transaction_timeout_s,
        connect_timeout_s=CONNECT_S,
    )
