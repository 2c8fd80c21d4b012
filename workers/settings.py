"""Settings: every environment variable with its meaning, default and errors.

`read(os.environ)` is called by the command line and nowhere else; all other code takes arguments. Building a
`Settings(...)` by hand never looks at the environment. An empty value counts as not set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic.fields import FieldInfo

from schemas.enriched_image import USES
from schemas.options import WANTS
from workers.errors import Misconfigured, closest

PREFIX = "TAGSTREAM_"
MIB = 1024 * 1024

DECODABLE = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif")
"""Formats that may stand in TAGSTREAM_FORMATS."""


class SecretUrl(SecretStr):
    """A URL that is shown as its `place`: without user, password and query."""

    def _display(self) -> str:
        return place(self.get_secret_value())


def place(url: str) -> str:
    """A URL without its secrets: `scheme://host:port`, or a Unix socket's path."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # it quotes what it can't read
        return "***" if url else ""
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    if not host:
        return "***" if url else ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{f':{port}' if port is not None else ''}"


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return value


def _check_servers(servers: tuple[str, ...]) -> tuple[str, ...]:
    for server in servers:
        if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:/\s]+):\d{1,5}", server):
            raise ValueError(f"{server!r} is not host:port")
    return servers


def _check_endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it must be a URL, http://host:port or https://host")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("it must be the bare endpoint: no bucket, path, user or query in it")
    return f"{parts.scheme}://{parts.netloc}"


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it must be a URL, https://host/path")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("it must be a URL without user, query and fragment")
    return url


def _check_redis(url: SecretUrl) -> SecretUrl:
    text = url.get_secret_value()
    if not text:
        return url
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("it must begin with redis://, rediss:// (TLS) or unix://")
    _, _, after = text.partition("://")
    login, _, rest = after.rpartition("@")
    if re.search(r"[/?#]", login) or "#" in rest:
        raise ValueError("in a user name or password / ? # and @ are written %2F %3F %23 and %40")
    if place(text) == "***" or (not text.startswith("unix://") and not re.fullmatch(r"/?\d*", urlsplit(text).path)):
        raise ValueError("it must be redis://[user:password@]host:port/db, where db is a number")
    return url


def _check_formats(formats: tuple[str, ...]) -> tuple[str, ...]:
    lowered = tuple(name.lower() for name in formats)
    for name in lowered:
        if name not in DECODABLE:
            raise ValueError(f"{name!r} is not among {', '.join(DECODABLE)}")
    return lowered


def _check_topic(topic: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic) or topic in (".", ".."):
        raise ValueError(f"{topic!r} is not a topic's name: letters, digits, '.', '_' and '-', at most 249")
    return topic


def _check_want(want: tuple[str, ...]) -> tuple[str, ...]:
    if not want or not set(want) <= set(WANTS):
        raise ValueError(f"it must name some of {', '.join(WANTS)}")
    return tuple(name for name in WANTS if name in want)


_PIN = "@sha256:"
"""Between a bundle's name or folder and the only digest that it may have."""


def _check_pin(bundle: str) -> str:
    name, pin, digest = bundle.rpartition(_PIN)
    if not pin:
        return bundle
    if not name or not re.fullmatch("[0-9a-f]{64}", digest.lower()):
        raise ValueError(f"after {_PIN} it must have all 64 digits that `tagstream models verify` shows")
    return f"{name}{_PIN}{digest.lower()}"


def _check_namespace(name: str) -> str:
    if not re.fullmatch("[A-Za-z0-9._-]{1,64}", name):
        raise ValueError("it must have letters, digits, '.', '_' and '-' alone, from 1 to 64")
    return name


def _check_topics(topics: tuple[str, ...]) -> tuple[str, ...]:
    for topic in topics:
        _check_topic(topic)
    return topics


def expanded(path: Path) -> Path:
    """A path without `~`. As in a shell, a home that is not known stays as it is written."""
    return Path(os.path.expanduser(path))  # pathlib raises for such a home


def _off(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "off" else value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


_NO_SIZE = "it must be a size, such as 20MiB or 4000000"


def _size_alone(value: object) -> object:
    """Refuse texts such as 20,000,000, which pydantic would read as 20."""
    if isinstance(value, str) and not re.fullmatch(r"[0-9_]+(\.[0-9]+)?(\s*[A-Za-z]+)?", value.strip()):
        raise ValueError(_NO_SIZE)
    return value


Words = Annotated[tuple[str, ...], BeforeValidator(_split)]
Servers = Annotated[Words, AfterValidator(_check_servers)]
Topic = Annotated[str, AfterValidator(_check_topic)]
OptionalTopic = Annotated[str, AfterValidator(lambda topic: _check_topic(topic) if topic else topic)]
Topics = Annotated[Words, AfterValidator(_check_topics)]
Endpoint = Annotated[str, AfterValidator(lambda url: _check_endpoint(url) if url else url)]
Url = Annotated[str, AfterValidator(lambda url: _check_url(url) if url else url)]
Bytes = Annotated[ByteSize, BeforeValidator(_size_alone), Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=100 * 365 * 86400)]
BundleName = Annotated[str, Field(min_length=1), AfterValidator(_check_pin)]
Folder = Annotated[Path, AfterValidator(expanded)]
OptionalFile = Annotated[Path | None, AfterValidator(lambda path: path and expanded(path))]


def _setting(group: str, default: Any, meaning: str) -> Any:
    return Field(default, description=meaning, json_schema_extra={"group": group})


def _share(divisor: int) -> Any:
    """A fixed share of TAGSTREAM_MEMORY."""
    return Field(default_factory=lambda values: ByteSize(values["memory"] // divisor))


def _no_transaction_outlives(values: dict[str, Any]) -> float:
    """Transaction time-out: two seconds above the session's, at least eight."""
    return max(8.0, float(values.get("kafka_session_timeout_s", 8.0)) + 2.0)


class PinnedBundle(NamedTuple):
    """A bundle's name or folder with its pinned digest; an empty digest: any."""

    name_or_folder: str
    digest: str

    @classmethod
    def of(cls, text: str) -> Self:
        """The bundle of `name@sha256:digest`, or of a name alone."""
        name, pin, digest = text.rpartition(_PIN)
        return cls(name, digest) if pin else cls(text, "")


NO_BUNDLE: Mapping[str, tuple[str, ...]] = {"captioner": ("template", "none")}
"""By use of a model, the values of its setting that name no bundle."""


class Settings(BaseModel):
    """All settings, validated and frozen.

    A field `x_y` made by `_setting` is the variable TAGSTREAM_X_Y. The others have no variable: only tests change them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # Where the work comes from and goes to
    kafka_servers: Servers = _setting("Kafka", (), "Bootstrap servers, `host:port,…`. Required")
    group: Annotated[str, Field(min_length=1)] = _setting("Kafka", "tagstream", "Consumer group")
    input_topics: Annotated[Topics, Field(min_length=1)] = _setting(
        "Kafka", ("images",), "Topics to read image events from, comma separated"
    )
    output_topic: Topic = _setting("Kafka", "images.enriched", "Topic of enriched images and retractions")
    dead_letter_topic: Topic = _setting("Kafka", "images.dead-letters", "Topic of events that could not be handled")
    skipped_topic: OptionalTopic = _setting("Kafka", "", "Topic of skipped events; empty: skips are only counted")
    corrections_topic: OptionalTopic = _setting(
        "Kafka", "", "Topic with people's tag corrections (`tagstream correct`), which override the model. Empty: off"
    )
    keep_scores: bool = _setting(
        "Kafka",
        True,
        "Enriched images carry their scores above the tagger's floor, and the embedding where the tagger gives one, in "
        "binary headers, for a later change of thresholds; `off`: they don't",
    )
    tombstones: bool = _setting(
        "Kafka",
        False,
        "`on`: a record of null value follows the retraction of an object, for sinks and compaction that delete by it",
    )
    input_isolation: Annotated[Literal["read_committed", "read_uncommitted"], BeforeValidator(_lower)] = _setting(
        "Kafka",
        "read_committed",
        "`read_committed`; or `read_uncommitted`, if no producer of events uses transactions: an open one then blocks "
        "no partition",
    )
    delivery: Annotated[Literal["exactly_once", "at_least_once"], BeforeValidator(_lower)] = _setting(
        "Kafka", "exactly_once", "`exactly_once` publishes and commits in one Kafka transaction; or `at_least_once`"
    )
    transactional_id: str = _setting(
        "Kafka", "", "Unique to each replica and stable (a pod's name); empty: group, host and the first free slot"
    )
    offset_reset: Annotated[Literal["earliest", "latest"], BeforeValidator(_lower)] = _setting(
        "Kafka", "earliest", "Where a new group begins: `earliest` or `latest`"
    )
    kafka_session_timeout_s: Annotated[float, Field(ge=1, le=300)] = _setting(
        "Kafka",
        8.0,
        "Seconds until a silent worker loses its partitions; two seconds later the broker ends its open transaction, "
        "for which readers wait",
    )
    kafka_transaction_timeout_s: Annotated[float, Field(ge=8, le=900)] = Field(default_factory=_no_transaction_outlives)
    kafka_security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], BeforeValidator(_upper)
    ] = _setting("Kafka", "PLAINTEXT", "`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`")
    kafka_tls_ca: OptionalFile = _setting(
        "Kafka", None, "PEM file with the brokers' certificate authority; empty: the system's"
    )
    kafka_tls_cert: OptionalFile = _setting(
        "Kafka", None, "PEM file with the worker's certificate, if the brokers require one"
    )
    kafka_tls_key: OptionalFile = _setting("Kafka", None, "PEM file with its private key")
    kafka_tls_key_password: SecretStr = _setting("Kafka", SecretStr(""), "Password of that private key")
    kafka_sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"], BeforeValidator(_upper)
    ] = _setting(
        "Kafka",
        "SCRAM-SHA-512",
        "`PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, `OAUTHBEARER`, or `AWS_MSK_IAM` in the region `AWS_REGION`; used "
        "with `SASL_…`",
    )
    kafka_user: str = _setting("Kafka", "", "User name for `SASL_…`; for `OAUTHBEARER` the client id")
    kafka_password: SecretStr = _setting(
        "Kafka", SecretStr(""), "Password for `SASL_…`; for `OAUTHBEARER` the client secret"
    )
    kafka_token_endpoint: Url = _setting(
        "Kafka", "", "URL of the service that issues `OAUTHBEARER` tokens to this user"
    )
    kafka_token_scope: str = _setting("Kafka", "", "Scope of the requested token")
    kafka_token_file: OptionalFile = _setting(
        "Kafka", None, "File with an `OAUTHBEARER` token, in place of a token service; read again when it changes"
    )

    s3_endpoint: Endpoint = _setting("Object storage", "", "URL of the object store, `http://host:port`. Required")
    s3_region: str = _setting("Object storage", "", "Region; empty: the store tells it")
    s3_access_key: SecretStr = _setting(
        "Object storage",
        SecretStr(""),
        "Access key; empty: from `AWS_WEB_IDENTITY_TOKEN_FILE` or `AWS_SHARED_CREDENTIALS_FILE`, or anonymous",
    )
    s3_secret_key: SecretStr = _setting("Object storage", SecretStr(""), "Secret key")
    buckets: Words = _setting("Object storage", (), "Buckets that events may name, comma separated. Required")
    key_globs: Annotated[Words, Field(min_length=1)] = _setting(
        "Object storage", ("*",), "Globs of keys to work on, comma separated; others are skipped. `*` crosses `/`"
    )
    sample: Annotated[float, Field(gt=0, le=1)] = _setting(
        "Object storage", 1.0, "Share of the objects to work on, by a hash of bucket and key; others are skipped"
    )

    redis_url: Annotated[SecretUrl, AfterValidator(_check_redis)] = _setting(
        "Cache", SecretUrl(""), "`redis://[user:password@]host:port/db`; empty: no cache"
    )
    cache_namespace: Annotated[str, AfterValidator(_check_namespace)] = _setting(
        "Cache", "default", "Prefix of every entry's name; deployments with the same namespace share results"
    )
    cache_key: SecretStr = _setting(
        "Cache",
        SecretStr(""),
        "Secret that authenticates entries, at least 32 characters; empty: entries are not authenticated",
    )
    cache_ttl_s: Seconds = _setting("Cache", 30 * 86400.0, "Seconds for which results are remembered")
    cache_timeout_s: Annotated[float, Field(gt=0, le=5)] = 0.1
    """A cache that does not answer within this is a miss."""

    tagger: BundleName = _setting(
        "Models",
        "compact",
        "`compact`, or a bundle's folder. `bundles/ram@sha256:…` accepts that digest only, and checks every file",
    )
    captioner: BundleName = _setting(
        "Models",
        "template",
        "`template` (a caption made from the tags), `none`, or a bundle's folder, with or without a digest",
    )
    want: Annotated[Words, AfterValidator(_check_want)] = _setting(
        "Models",
        ("tags", "caption"),
        "What an event gets that does not say, comma separated: `tags`, `caption`, `embedding`",
    )
    device: Annotated[Literal["auto", "cpu", "cuda"], BeforeValidator(_lower)] = _setting(
        "Models", "auto", "`auto` (CUDA where there is one), `cpu` or `cuda`"
    )
    precision: Annotated[Literal["tuned", "fp32", "bf16", "fp16", "int8"], BeforeValidator(_lower)] = _setting(
        "Models", "tuned", "`tuned` (the fastest one measured on this device), `fp32`, `bf16`, `fp16` or `int8`"
    )
    labels_file: OptionalFile = _setting(
        "Models",
        None,
        "File with the only labels to score, one a line; empty: all. Scores stay the same and cost less",
    )
    profiles: OptionalFile = _setting(
        "Models",
        None,
        "JSON file of named profiles for an event's `options.profile`: thresholds, and the labels that count",
    )
    state_dir: Folder = _setting(
        "Models", Path("~/.local/state/tagstream"), "Folder for what outlives a restart: tuning, journal, slots"
    )

    max_object_bytes: Bytes = _setting("Limits", ByteSize(20 * MIB), "Largest object (`object-too-large`)")
    get_timeout_s: Seconds = _setting("Limits", 25.0, "Seconds for one GET")
    max_pixels: Count = _setting("Limits", 50_000_000, "Most pixels of an image, by its header (`too-many-pixels`)")
    min_side: Count = 3
    """Shortest side in pixels (`too-small`)."""
    formats: Annotated[Words, Field(min_length=1), AfterValidator(_check_formats)] = _setting(
        "Limits", DECODABLE, "Image formats to decode, comma separated"
    )
    decode_timeout_s: Seconds = 20.0
    """Most seconds to decode an image, with `processes`; small images get less (`decode-timeout`). Below half of
    `stall_timeout_s`: an image that hangs its decoder is tried twice."""
    retry_s: Seconds = 5.0
    """A GET's passing failures (5xx, resets) are retried for so long; then its partition waits."""
    unreadable_s: Seconds = 60.0
    """An object that fails for so long while others of its bucket read is dead-lettered."""

    memory: Annotated[Bytes, Field(ge=MIB)] = _setting(
        "Tuning",
        ByteSize(2048 * MIB),
        "Memory for all work in progress. Images, records, outcomes and corrections have fixed shares of it; program "
        "and models come on top",
    )
    decode_memory: Bytes = _share(2)
    """For decoding one image: by its header's estimate, and in its child process (`decode-memory`)."""
    decoded_bytes: Bytes = _share(4)
    """For images being decoded and batched."""
    encoded_bytes: Bytes = _share(8)
    """For images as fetched."""
    corrections_bytes: Bytes = _share(8)
    """For corrections; a worker ends when they are more."""
    ledger_bytes: Bytes = _share(32)
    """For outcomes that wait for those before them."""
    polled_bytes: Bytes = _share(64)
    """For records that wait, and for one batch of them (`batch-too-large`)."""
    jobs_ahead: Count = 2_000
    """Most images of a partition ahead of its committed offset."""
    max_batch: Annotated[int, Field(ge=0)] = _setting(
        "Tuning", 0, "Most images in a batch; 0: what tuning or the warm-up found"
    )
    fetch_threads: Annotated[int, Field(ge=1, le=1024)] = _setting("Tuning", 16, "Concurrent GETs")
    decode_threads: Annotated[int, Field(ge=0, le=256)] = _setting(
        "Tuning", 0, "Concurrent decodes; 0: one for each available processor"
    )
    decoder: Annotated[Literal["threads", "processes"], BeforeValidator(_lower)] = _setting(
        "Tuning",
        "processes",
        "Where images are decoded: `processes` (Linux: sandboxed children, replaced when one dies) or `threads`",
    )
    decode_scaling: Annotated[Literal["off", "close", "fast"], BeforeValidator(_lower)] = _setting(
        "Tuning",
        "off",
        "Decode large JPEGs at 1/2, 1/4 or 1/8, which changes some answers: `close` leaves three times the model's "
        "side, `fast` one and a half; or `off`",
    )
    transaction_outcomes: Annotated[int, Field(ge=1, le=10_000)] = 500
    """Most outcomes of one transaction."""
    transaction_bytes: Bytes = ByteSize(4_000_000)
    """Most bytes of one transaction, unless the outcomes of one record are more."""

    http_host: str = _setting("Running", "0.0.0.0", "Address of /livez, /startupz, /readyz and /metrics")
    http_port: Annotated[Annotated[int, Field(ge=0, le=65535)] | None, BeforeValidator(_off)] = _setting(
        "Running", 8080, "Their port; 0: any free port (logged at start); `off`: none"
    )
    drain_s: Seconds = _setting(
        "Running", 25.0, "Seconds to finish work in progress after SIGTERM; keep it below the grace period"
    )
    stall_timeout_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """Seconds without progress, or on one image, after which the worker logs all stacks and exits with 3."""
    self_test_s: Annotated[float, Field(ge=0, le=86400)] = 300.0
    """Seconds between self-tests of the device; 0 turns them off."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = _setting(
        "Running", "info", "`debug` (names keys), `info`, `warning` or `error`"
    )
    log_format: Annotated[Literal["auto", "text", "json"], BeforeValidator(_lower)] = _setting(
        "Running", "auto", "`text`, `json` (a line each), or `auto`: text on a terminal"
    )

    # What AWS' own variables say, each by its own name in lower case.
    aws_region: str = ""
    aws_web_identity_token_file: OptionalFile = None
    """A token to exchange for keys of the object store."""
    aws_role_arn: str = ""
    """The role that the token is for."""
    aws_endpoint_url_sts: Endpoint = ""
    """The token service; empty: AWS' own for AWS, and else the object store's."""
    aws_shared_credentials_file: OptionalFile = None
    """INI file with keys as AWS' tools write it, profile `default`; read again when it changes."""

    # Not TAGSTREAM_ names: whether OpenTelemetry's own variables ask for an export.
    secret_files: Mapping[str, Path] = {}
    """Where the secrets came from that were in files, by field: clients read them again."""
    otlp_traces: bool = False
    otlp_metrics: bool = False

    def require(self, *fields: str) -> Self:
        """Require these fields; returns the settings.

        Raises:
            Misconfigured: names each that is not, and what it is.
        """
        if missing := list(_missing(self, fields)):
            raise Misconfigured("\n".join(missing))
        return self

    def bundles(self) -> dict[str, PinnedBundle]:
        """The bundles of the live models, by what each is used as."""
        return {
            use: bundle
            for use in USES
            if (bundle := PinnedBundle.of(getattr(self, use))).name_or_folder not in NO_BUNDLE.get(use, ())
        }


def _missing(settings: Settings, fields: Iterable[str]) -> Iterator[str]:
    for field in fields:
        if not getattr(settings, field):
            yield f"{variable(field)} is not set. It is: {plain(FIELDS[field].description)}."


def _contradictions(settings: Settings) -> Iterator[str]:
    """Contradictions between settings that are each valid."""
    yield from _login_contradictions(settings)
    if bool(settings.kafka_tls_cert) != bool(settings.kafka_tls_key):
        yield "TAGSTREAM_KAFKA_TLS_CERT and TAGSTREAM_KAFKA_TLS_KEY go together: set both or none"
    if bool(settings.s3_access_key) != bool(settings.s3_secret_key):
        yield "TAGSTREAM_S3_ACCESS_KEY and TAGSTREAM_S3_SECRET_KEY go together: set both or none (anonymous)"
    if 0 < len(settings.cache_key.get_secret_value()) < 32:
        yield "TAGSTREAM_CACHE_KEY is too short: it must have at least 32 characters (openssl rand -hex 32)"
    for use in USES:
        named = PinnedBundle.of(getattr(settings, use))
        if named.digest and use not in settings.bundles():
            yield f"{variable(use)} has a digest, and {named.name_or_folder!r} is no bundle: leave the digest out"
    outputs = [settings.output_topic, settings.dead_letter_topic, settings.skipped_topic]
    for topic in (*settings.input_topics, settings.corrections_topic):
        if topic and topic in outputs:
            yield f"the topic {topic!r} is both read and written: the worker would read its own output"
    if settings.corrections_topic in settings.input_topics:
        yield f"the topic {settings.corrections_topic!r} can't hold both image events and corrections"
    if settings.max_object_bytes > settings.encoded_bytes:
        yield "TAGSTREAM_MAX_OBJECT_BYTES is above an eighth of TAGSTREAM_MEMORY: such an object could never be fetched"


def _login_contradictions(settings: Settings) -> Iterator[str]:
    """Settings that the chosen Kafka login lacks or does not use."""
    protocol, mechanism = settings.kafka_security_protocol, settings.kafka_sasl_mechanism
    endpoint = settings.kafka_token_endpoint
    if protocol.startswith("SASL"):
        by_file = mechanism == "OAUTHBEARER" and settings.kafka_token_file is not None
        if mechanism == "AWS_MSK_IAM":
            if protocol != "SASL_SSL":
                yield "TAGSTREAM_KAFKA_SASL_MECHANISM=AWS_MSK_IAM needs TAGSTREAM_KAFKA_SECURITY_PROTOCOL=SASL_SSL"
            if not settings.aws_region:
                yield "TAGSTREAM_KAFKA_SASL_MECHANISM=AWS_MSK_IAM needs AWS_REGION"
        elif not by_file and not (settings.kafka_user and settings.kafka_password):
            yield (
                f"TAGSTREAM_KAFKA_SECURITY_PROTOCOL={protocol} needs TAGSTREAM_KAFKA_USER and "
                "TAGSTREAM_KAFKA_PASSWORD (or …_PASSWORD_FILE)"
            )
        if mechanism == "OAUTHBEARER" and bool(endpoint) == by_file:
            yield (
                "TAGSTREAM_KAFKA_SASL_MECHANISM=OAUTHBEARER needs TAGSTREAM_KAFKA_TOKEN_ENDPOINT or "
                "TAGSTREAM_KAFKA_TOKEN_FILE, and not both"
            )
    elif settings.kafka_user:
        yield (
            f"TAGSTREAM_KAFKA_USER is set, but TAGSTREAM_KAFKA_SECURITY_PROTOCOL={protocol} has no login: set it to "
            "SASL_SSL or SASL_PLAINTEXT"
        )
    parts = urlsplit(endpoint)
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        yield "TAGSTREAM_KAFKA_TOKEN_ENDPOINT must be https:// (RFC 6749): a password is sent there"


FIELDS: Mapping[str, FieldInfo] = {name: info for name, info in Settings.model_fields.items() if info.json_schema_extra}
"""The fields that have a variable, in the order of the table."""


def variable(field: str) -> str:
    """The name of a field's environment variable."""
    return PREFIX + field.upper()


def is_secret(field: str) -> bool:
    """Whether it is masked when shown, and may come from `<variable>_FILE`."""
    return isinstance(FIELDS[field].default, SecretStr)


def variables() -> frozenset[str]:
    """Every name that can be set, with `…_FILE` for secrets."""
    files = {f"{variable(field)}_FILE" for field in FIELDS if is_secret(field)}
    return frozenset({variable(field) for field in FIELDS} | files)


_TOKEN = 8
"""Shorter values of a query are taken for words."""


def secret_values(settings: Settings) -> list[str]:
    """All secrets to mask; of a URL only its password."""
    values = [getattr(settings, field) for field in FIELDS if is_secret(field)]
    plain = [
        text
        for value in values
        for text in (
            _passwords(value.get_secret_value()) if isinstance(value, SecretUrl) else [value.get_secret_value()]
        )
    ]
    return [text for text in plain if text]


def _passwords(url: str) -> list[str]:
    """Passwords in the login and query of a URL, quoted and unquoted."""
    parts = urlsplit(url)
    login = parts.password or ""
    queried = [value for name, value in parse_qsl(parts.query) if "password" in name]
    return list(dict.fromkeys((login, unquote(login), *queried)))


def url_tokens(environ: Mapping[str, str]) -> list[str]:
    """Possible tokens: the queries of URLs such as OTEL_EXPORTER_OTLP_ENDPOINT's."""
    queries = [query for name, url in environ.items() if "ENDPOINT" in name and (query := url.partition("?")[2])]
    values = [value for query in queries for _, value in parse_qsl(query)]
    return queries + [text for value in values for text in (value, quote(value)) if len(value) >= _TOKEN]


def read(environ: Mapping[str, str]) -> Settings:
    """The settings of this environment.

    Raises:
        Misconfigured: one line for each unknown name and unreadable file; or else for each wrong value, or else for
            each contradiction between them.
    """
    settings, wrong = examine(environ)
    if wrong:
        raise Misconfigured("\n".join(wrong))
    return settings


def examine(environ: Mapping[str, str], *required: str) -> tuple[Settings, list[str]]:
    """The settings of this environment, and a line for each error.

    Fields with a wrong value have their default. Contradictions are looked for only if no value is wrong.

    Args:
        required: fields that must be set.

    Raises:
        Misconfigured: one line for each unknown name and unreadable file. They are told alone, because they explain
            what else seems to be missing.
    """
    values = _values(environ)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        bad = {str(problem["loc"][0]) for problem in error.errors()}
        settings = Settings.model_validate({field: value for field, value in values.items() if field not in bad})
        return settings, [*_missing(settings, [field for field in required if field not in bad]), *_sentences(error)]
    return settings, [*_missing(settings, required), *(f"{says}." for says in _contradictions(settings))]


def _values(environ: Mapping[str, str]) -> dict[str, Any]:
    """The values that are set, as text by field."""
    values: dict[str, Any] = {}
    files: dict[str, Path] = {}
    wrong: list[str] = []
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or not text.strip() or _made_by_kubernetes(name, text):
            continue
        try:
            field, value = _take(name, text)
        except ValueError as error:
            wrong.append(str(error))
            continue
        if not value:  # an empty file, as a Secret's optional entry may be
            continue
        if field in values:
            wrong.append(f"{variable(field)} and {variable(field)}_FILE are both set: keep one")
        values[field] = value
        if name != variable(field):
            files[field] = expanded(Path(text))
    if wrong:
        raise Misconfigured("\n".join(wrong))
    return {**_from_elsewhere(environ), **_aws(environ, "s3_access_key" in values), **values, "secret_files": files}


def _take(name: str, text: str) -> tuple[str, str]:
    """The field that a variable sets, and its value.

    Raises:
        ValueError: a sentence for the user.
    """
    field = name.removeprefix(PREFIX).lower()
    if field in FIELDS and name.isupper():
        return field, text
    secret = field.removesuffix("_file")
    if secret != field and secret in FIELDS and name.isupper():
        if not is_secret(secret):
            raise ValueError(f"{name}: only secrets are read from files; set {variable(secret)} itself")
        return secret, _read_file(name, Path(text))
    raise ValueError(f"{name} is not a setting.{_nearest(name)}")


def unknown(name: str) -> str:
    """A sentence about a variable that looks like a setting; empty if it is one."""
    if not name.startswith(PREFIX) or name in variables():
        return ""
    return f"{name} is not a setting.{_nearest(name)}"


_LARGEST_FILE = 64 * 1024
"""The most bytes of a file with a secret."""


def _read_file(name: str, path: Path) -> str:
    try:
        return read_secret(expanded(path)).rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{name}={path} can't be read: {reason}") from error


def read_secret(path: Path) -> str:
    """The text of a file with a secret.

    Raises:
        OSError, ValueError: it can't be read, is too large, or no text in UTF-8. None of them quotes it.
    """
    with path.open("rb") as file:
        content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise ValueError(f"it has more than {_LARGEST_FILE:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None


_FORMER = {"KEYS": "KEY_GLOBS", "ALLOW": "LABELS_FILE", "INTAKE": "DECODER"}
"""Names that settings had before the first release: they are suggested, not read."""

_FIXED = "It is fixed at {}: leave it out."
GONE = {
    **dict.fromkeys(
        ("SHADOW_TAGGER", "SHADOW_TAGGER_DIGEST", "SHADOW_SHARE", "SHADOW_REPORTS"),
        "Run the new tagger as a second group with an output topic of its own and TAGSTREAM_SAMPLE, "
        "then `tagstream compare` the two topics.",
    ),
    **{
        name: f"It is a fixed share, one {share} of TAGSTREAM_MEMORY: set that one."
        for name, share in {
            "DECODE_MEMORY": "half",
            "DECODED_BYTES": "fourth",
            "ENCODED_BYTES": "eighth",
            "CORRECTIONS_BYTES": "eighth",
            "LEDGER_BYTES": "thirty-second",
            "POLLED_BYTES": "sixty-fourth",
        }.items()
    },
    "KAFKA_TRANSACTION_TIMEOUT_S": "It is two seconds above TAGSTREAM_KAFKA_SESSION_TIMEOUT_S: set that one.",
    "CACHE_TIMEOUT_S": _FIXED.format("0.1 seconds"),
    "MIN_SIDE": _FIXED.format("3 pixels"),
    "DECODE_TIMEOUT_S": _FIXED.format("20 seconds"),
    "RETRY_S": _FIXED.format("5 seconds"),
    "UNREADABLE_S": _FIXED.format("60 seconds"),
    "JOBS_AHEAD": _FIXED.format("2,000 images of a partition"),
    **dict.fromkeys(("TRANSACTION_OUTCOMES", "RUN_OUTCOMES"), _FIXED.format("500 outcomes")),
    **dict.fromkeys(("TRANSACTION_BYTES", "RUN_BYTES"), _FIXED.format("4 MB")),
    **dict.fromkeys(("STALL_TIMEOUT_S", "WEDGED_S"), _FIXED.format("60 seconds")),
    "TAGGER_DIGEST": "Write it behind the bundle, as in TAGSTREAM_TAGGER=bundles/ram@sha256:….",
    "CAPTIONER_DIGEST": "Write it behind the bundle, as in TAGSTREAM_CAPTIONER=bundles/tag2text@sha256:….",
    "S3_SESSION_TOKEN": "Keep keys that expire in a file, and name it in AWS_SHARED_CREDENTIALS_FILE.",
    "S3_CREDENTIALS_FILE": "Name the file in AWS_SHARED_CREDENTIALS_FILE.",
    "S3_WEB_IDENTITY_TOKEN_FILE": "Name the file in AWS_WEB_IDENTITY_TOKEN_FILE.",
    "S3_ROLE_ARN": "Name the role in AWS_ROLE_ARN.",
    "S3_STS_ENDPOINT": "Name the service in AWS_ENDPOINT_URL_STS.",
    "KAFKA_AWS_REGION": "Name the region in AWS_REGION.",
    "SELF_TEST_S": _FIXED.format("300 seconds"),
}
"""What to do instead of a removed setting."""


def _nearest(name: str) -> str:
    bare = name.removeprefix(PREFIX).upper()
    if instead := GONE.get(bare) or GONE.get(bare.removesuffix("_FILE")):
        return f" {instead}"
    if former := _FORMER.get(bare):
        return f" Do you mean {PREFIX}{former}?"
    known = [field.upper() for field in FIELDS]
    known += [f"{field.upper()}_FILE" for field in FIELDS if is_secret(field)]
    near = closest(bare, known)
    return f" Do you mean {PREFIX}{near}?" if near else " `tagstream settings` lists them all."


def _made_by_kubernetes(name: str, text: str) -> bool:
    """Whether Kubernetes made this variable for a Service called tagstream…."""
    if re.search(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_|$)", name):
        return True
    return name.endswith("_PORT") and re.match(r"(tcp|udp|sctp)://", text) is not None


def _from_elsewhere(environ: Mapping[str, str]) -> dict[str, Any]:
    """Values from XDG_STATE_HOME and from OpenTelemetry's variables."""
    found: dict[str, Any] = {
        "otlp_traces": _exports(environ, "TRACES"),
        "otlp_metrics": _exports(environ, "METRICS"),
    }
    if xdg := environ.get("XDG_STATE_HOME"):
        found["state_dir"] = Path(xdg) / "tagstream"
    return found


def _aws(environ: Mapping[str, str], has_keys: bool) -> dict[str, str]:
    """Values from AWS' variables; as for its tools, a web identity comes before a file."""
    found = {"aws_region": environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION", "")}
    identity = ("aws_web_identity_token_file", "aws_role_arn", "aws_endpoint_url_sts")
    if has_keys:
        return found
    names = identity if environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") else ("aws_shared_credentials_file",)
    return found | {name: text for name in names if (text := environ.get(name.upper()))}


def _exports(environ: Mapping[str, str], signal: str) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environ.get(f"OTEL_{signal}_EXPORTER", "otlp") != "otlp":
        return False
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return any(environ.get(name) for name in endpoints)


_SAYS = {
    "byte_size": _NO_SIZE,
    "bool_parsing": "it must be on or off",
    "int_parsing": "it must be a whole number",
    "float_parsing": "it must be a number",
    "too_short": "it must name at least one",
    "string_too_short": "it must not be empty",
}
"""Clearer words for some of pydantic's kinds of error."""


def _sentences(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_context=False):
        if problem["type"] == "default_factory_not_called":  # it follows from another field, which is reported
            continue
        says = _SAYS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
        field = str(problem["loc"][0])
        ours = field in FIELDS
        hidden = (ours and is_secret(field)) or "@" in str(problem["input"])
        given = "" if hidden else f"={_without_query(field, problem['input'])}"
        meaning = f" It is: {plain(FIELDS[field].description)}." if ours else ""
        yield f"{variable(field) if ours else field.upper()}{given}: {says[:1].lower()}{says[1:]}.{meaning}"


def _without_query(field: str, value: object) -> str:
    """A value without a URL's query, which may hold a token."""
    text = _as_text(value)
    is_url = "://" in text or "endpoint" in field
    return re.sub(r"[?#].*", lambda query: f"{query[0][0]}…", text, flags=re.DOTALL) if is_url else text


def plain(markdown: str | None) -> str:
    """A setting's meaning for a terminal or a sentence."""
    return (markdown or "").replace("`", "").removesuffix(". Required")


def shown(settings: Settings) -> dict[str, str]:
    """Every variable with its value; secrets are masked."""
    values = {variable(field): _as_text(getattr(settings, field)) for field in FIELDS}
    return values | ({"TAGSTREAM_HTTP_PORT": "off"} if settings.http_port is None else {})


def _as_text(value: object) -> str:
    writers: list[tuple[type | tuple[type, ...], Callable[[Any], str]]] = [
        (tuple, ",".join),
        (ByteSize, _size),
        (bool, lambda on: "on" if on else "off"),
        (float, lambda number: f"{number:g}" if number < 1e6 else f"{number:.0f}"),
        (SecretUrl, str),
        (SecretStr, lambda secret: "***" if secret else ""),
        (type(None), lambda _: ""),
    ]
    for kind, write in writers:
        if isinstance(value, kind):
            return write(value)
    return str(value)


def _size(size: ByteSize) -> str:
    return f"{size // MIB}MiB" if size % MIB == 0 else str(int(size))


def group_of(field: str) -> str:
    """The heading that a field stands under."""
    extra = FIELDS[field].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["group"])


def default_text(field: str) -> str:
    """A field's default as a variable's text, or empty."""
    return _as_text(FIELDS[field].default)
