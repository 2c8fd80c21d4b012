"""Settings: every environment variable with its meaning, default and errors.

`workers.environment` reads them; building a `Settings(...)` by hand never looks at the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, SecretStr

from schemas.enriched_image import USES
from schemas.options import WANT_MAX, WANTS
from schemas.result_kinds import RoleName
from schemas.text import visible

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


def is_address(text: str) -> bool:
    """Whether this value of TAGSTREAM_CAPTIONER is a service's address, no bundle."""
    return text.lower().startswith(("http://", "https://"))


def reaches_no_further(url: str) -> bool:
    """Whether what is sent to this URL stays on this machine."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def _check_captioner(text: str) -> str:
    if not is_address(text):
        return _check_pin(text)
    if text.endswith(("?", "#")):
        raise ValueError("it must be a URL without query and fragment")
    _check_url(visible(text))
    urlsplit(text).port  # noqa: B018  # raises for one that can't be
    return text.rstrip("/")


def _check_header(secret: SecretStr) -> SecretStr:
    visible(secret.get_secret_value())
    return secret


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
    if not want:
        raise ValueError(f"it must name some of {', '.join(WANTS)}")
    return (*[name for name in WANTS if name in want], *dict.fromkeys(name for name in want if name not in WANTS))


def _by_role(value: object) -> object:
    """Bundles by role, of a text `role=bundle,…`."""
    if not isinstance(value, str):
        return value
    found: dict[str, str] = {}
    for each in filter(None, map(str.strip, value.split(","))):
        name, _, bundle = map(str.strip, each.partition("="))
        if not name or not bundle:
            raise ValueError(f"{each!r} is not ROLE=BUNDLE, such as sharpness=bundles/sharpness")
        if name in found:
            raise ValueError(f"it has the role {name!r} twice")
        found[name] = bundle
    return found


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


class InputTopic(NamedTuple):
    """A topic of image events; `background`: its events wait for those of other topics."""

    name: str
    background: bool = False

    def __str__(self) -> str:
        return f"{self.name}:background" if self.background else self.name


def _input_topics(value: object) -> object:
    """Topics with their lanes, of texts `topic` and `topic:background`."""
    topics = _split(value)
    if not isinstance(topics, tuple):
        return topics
    return tuple(_input_topic(topic) if isinstance(topic, str) else topic for topic in topics)


def _input_topic(text: str) -> InputTopic:
    name, lane, _ = text.partition(":background")
    if text != name + lane:
        raise ValueError(f"{text!r} is neither TOPIC nor TOPIC:background")
    return InputTopic(_check_topic(name), bool(lane))


def _check_input_topics(topics: tuple[InputTopic, ...]) -> tuple[InputTopic, ...]:
    if len({topic.name for topic in topics}) < len(topics):
        raise ValueError("it names a topic twice")
    if all(topic.background for topic in topics):
        raise ValueError("a topic must be left without :background, for what can't wait")
    return topics


def expanded(path: Path) -> Path:
    """A path without `~`. As in a shell, a home that is not known stays as it is written."""
    return Path(os.path.expanduser(path))  # pathlib raises for such a home


def _off(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "off" else value


def _workers(value: object) -> object:
    text = str(value).strip().lower()
    if text != "auto" and not re.fullmatch("[1-9][0-9]{0,2}", text):
        raise ValueError("it must be a whole number from 1 to 999, or auto")
    return text if text == "auto" else int(text)


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


NO_SIZE = "it must be a size, such as 20MiB or 4000000"


def _size_alone(value: object) -> object:
    """Refuse texts such as 20,000,000, which pydantic would read as 20."""
    if isinstance(value, str) and not re.fullmatch(r"[0-9_]+(\.[0-9]+)?(\s*[A-Za-z]+)?", value.strip()):
        raise ValueError(NO_SIZE)
    return value


Words = Annotated[tuple[str, ...], BeforeValidator(_split)]
Servers = Annotated[Words, AfterValidator(_check_servers)]
Topic = Annotated[str, AfterValidator(_check_topic)]
OptionalTopic = Annotated[str, AfterValidator(lambda topic: _check_topic(topic) if topic else topic)]
InputTopics = Annotated[
    tuple[InputTopic, ...], BeforeValidator(_input_topics), Field(min_length=1), AfterValidator(_check_input_topics)
]
Endpoint = Annotated[str, AfterValidator(lambda url: _check_endpoint(url) if url else url)]
Url = Annotated[str, AfterValidator(lambda url: _check_url(url) if url else url)]
Bytes = Annotated[ByteSize, BeforeValidator(_size_alone), Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Workers = Annotated[int | Literal["auto"], BeforeValidator(_workers)]
Seconds = Annotated[float, Field(gt=0, le=100 * 365 * 86400)]
BundleName = Annotated[str, Field(min_length=1), AfterValidator(_check_pin)]
BundleOrAddress = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_check_captioner)]
Roles = Annotated[Mapping[RoleName, BundleName], BeforeValidator(_by_role), Field(max_length=WANT_MAX - len(WANTS))]
Folder = Annotated[Path, AfterValidator(expanded)]
Port = Annotated[Annotated[int, Field(ge=0, le=65535)] | None, BeforeValidator(_off)]
OptionalFile = Annotated[Path | None, AfterValidator(lambda path: path and expanded(path))]


def _setting(group: str, default: Any, meaning: str) -> Any:
    return Field(default, description=meaning, json_schema_extra={"group": group})


def _share(divisor: int) -> Any:
    """A fixed share of TAGSTREAM_MEMORY."""
    return Field(default_factory=lambda values: ByteSize(values["memory"] // divisor))


class PinnedBundle(NamedTuple):
    """A bundle's name or folder with its pinned digest; an empty digest: any."""

    name_or_folder: str
    digest: str

    @classmethod
    def of(cls, text: str) -> Self:
        """The bundle of `name@sha256:digest`, or of a name alone."""
        name, pin, digest = text.rpartition(_PIN)
        return cls(name, digest) if pin else cls(text, "")


class WorkerPart(NamedTuple):
    """One process of the `of` that share a worker's work; alone by default.

    Args:
        folder: where all of them have their sockets and their lock; None for a process alone.
        threads: that a model computes with on processors; None: as torch chooses.
    """

    number: int = 1
    of: int = 1
    folder: Path | None = None
    threads: int | None = None


def setting_of(use: str) -> str:
    """The setting that names a use's bundle: TAGSTREAM_TAGGER, or TAGSTREAM_ROLES=sharpness."""
    return PREFIX + (use.upper() if use in USES else f"ROLES={use}")


NO_BUNDLE: Mapping[str, tuple[str, ...]] = {"captioner": ("template", "none")}
"""By use of a model, the values of its setting that name no bundle; an address names none either."""
FIELDS_KIND = "fields"
"""The result that holds the fields of TAGSTREAM_CAPTION_FILE."""


class Settings(BaseModel):
    """All settings, validated and frozen.

    A field `x_y` made by `_setting` is the variable TAGSTREAM_X_Y. The others have no variable: only tests change them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # Where the work comes from and goes to
    kafka_servers: Servers = _setting("Kafka", (), "Bootstrap servers, `host:port,…`. Required")
    group: Annotated[str, Field(min_length=1)] = _setting("Kafka", "tagstream", "Consumer group")
    input_topics: InputTopics = _setting(
        "Kafka",
        ("images",),
        "Topics to read image events from, comma separated; events of a `topic:background` wait for those of others",
    )
    output_topic: Topic = _setting("Kafka", "images.enriched", "Topic of enriched images and retractions")
    dead_letter_topic: Topic = _setting("Kafka", "images.dead-letters", "Topic of events that could not be handled")
    skipped_topic: OptionalTopic = _setting("Kafka", "", "Topic of skipped events; empty: skips are only counted")
    corrections_topic: OptionalTopic = _setting(
        "Kafka", "", "Topic with people's tag corrections (`tagstream correct`), which override the model. Empty: off"
    )
    corrections_by: bool = _setting(
        "Kafka", False, "`on`: enriched images tell who corrected their tags (`corrections.by`), which is personal data"
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
    kafka_transaction_timeout_s: Annotated[float, Field(ge=8, le=900)] = Field(
        default_factory=lambda values: max(8.0, float(values.get("kafka_session_timeout_s", 8.0)) + 2.0)
    )
    """Two seconds above the session's, at least eight."""
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

    s3_endpoint: Endpoint = _setting(
        "Object storage", "", "URL of the object store, `http://host:port`; empty: `AWS_ENDPOINT_URL_S3`. Required"
    )
    s3_region: str = _setting("Object storage", "", "Region; empty: the store tells it")
    s3_access_key: SecretStr = _setting(
        "Object storage",
        SecretStr(""),
        "Access key; empty: from `AWS_ACCESS_KEY_ID`, `AWS_WEB_IDENTITY_TOKEN_FILE`, `AWS_SHARED_CREDENTIALS_FILE` or "
        "`AWS_PROFILE`; without all of them: anonymous",
    )
    s3_secret_key: SecretStr = _setting("Object storage", SecretStr(""), "Secret key")
    buckets: Words = _setting("Object storage", (), "Buckets that events may name, comma separated. Required")
    rendition: str = _setting(
        "Object storage",
        "",
        "Where a smaller copy of each image is, such as `{bucket}-web/{key}.jpg`, to read in its place; empty: nowhere",
    )
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
    forget_on_remove: bool = _setting(
        "Cache",
        False,
        "`on`: a removal event also purges the object's sequencer and the results of its contents, of entries written "
        "since it is on",
    )
    cache_ttl_s: Seconds = _setting("Cache", 30 * 86400.0, "Seconds for which results are remembered")
    cache_timeout_s: Annotated[float, Field(gt=0, le=5)] = 0.1
    """A cache that does not answer within this is a miss."""

    tagger: BundleName = _setting(
        "Models",
        "compact",
        "`compact`, or a bundle's folder. `bundles/ram@sha256:…` accepts that digest only, and checks every file",
    )
    captioner: BundleOrAddress = _setting(
        "Models",
        "template",
        "`template` (a caption made from the tags), `none`, a bundle's folder, with or without a digest, or the "
        "address of an OpenAI-compatible service, `https://host/v1`",
    )
    caption_model: Annotated[str, Field(max_length=200)] = _setting(
        "Models", "", "Model to ask that service for. Required with an address"
    )
    caption_key: Annotated[SecretStr, AfterValidator(_check_header)] = _setting(
        "Models", SecretStr(""), "Key of that service; empty: none is sent. A changed file is read again"
    )
    caption_wait_s: Seconds = _setting(
        "Models",
        10.0,
        "Seconds that an image waits for that service's caption; without one it is published as partial. Hours work "
        "off a library at the service's pace",
    )
    caption_tokens_per_day: Annotated[int, Field(ge=0)] = _setting(
        "Models", 0, "Tokens of that service that the group may spend on a day (UTC); 0: no limit"
    )
    caption_file: OptionalFile = _setting(
        "Models", None, "JSON file for that service: prompt, image side, requests at once, language, further fields"
    )
    roles: Roles = _setting(
        "Models",
        {},
        "Further results that installed packages add, in the order in which they run: `role=bundle,…`, such as "
        "`sharpness=bundles/sharpness`, each with or without a digest; empty: none",
    )
    want: Annotated[Words, AfterValidator(_check_want)] = _setting(
        "Models",
        ("tags", "caption"),
        "What an event gets that does not say, comma separated: `tags`, `caption`, `embedding`, roles of "
        "TAGSTREAM_ROLES, and `fields` where TAGSTREAM_CAPTION_FILE has some",
    )
    facts: Annotated[Literal["on", "off", "place"], BeforeValidator(_lower)] = _setting(
        "Models",
        "on",
        "`on`: outcomes tell when a picture was taken, its orientation and hashes; `place`: also where, by its GPS, "
        "which is personal data; `off`: none of these",
    )
    device: Annotated[Literal["auto", "cpu", "cuda"], BeforeValidator(_lower)] = _setting(
        "Models", "auto", "`auto` (CUDA where there is one), `cpu` or `cuda`"
    )
    precision: Annotated[Literal["tuned", "fp32", "bf16", "fp16", "int8"], BeforeValidator(_lower)] = _setting(
        "Models", "tuned", "`tuned` (the fastest one measured on this device), `fp32`, `bf16`, `fp16` or `int8`"
    )
    labels_file: OptionalFile = _setting(
        "Models", None, "File with the only labels to score, one a line; empty: all. Scores stay the same and cost less"
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
    """For records that wait."""
    batch_bytes: Bytes = _share(64)
    """For one batch of records (`batch-too-large`)."""
    jobs_ahead: Count = 2_000
    """Most images of a partition ahead of its committed offset."""
    max_batch: Annotated[int, Field(ge=0)] = _setting(
        "Tuning", 0, "Most images in a batch; 0: what tuning or the warm-up found"
    )
    workers: Workers = _setting(
        "Tuning",
        1,
        "Processes that share the work, and memory, GETs, decodes and processors; `auto`: on CUDA one for every four "
        "decodes, at most 8 and what the device's memory holds, and else 1",
    )
    part: WorkerPart = WorkerPart()
    """Of these processes, the one that these settings are for."""
    fetch_threads: Annotated[int, Field(ge=1, le=1024)] = _setting("Tuning", 16, "Concurrent GETs")
    decode_threads: Annotated[int, Field(ge=0, le=256)] = _setting(
        "Tuning", 0, "Concurrent decodes; 0: one for each available processor"
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
    http_port: Port = _setting("Running", 8080, "Their port; 0: any free port (logged at start); `off`: none")
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
    aws_endpoint_url_s3: Endpoint = ""
    aws_access_key_id: SecretStr = SecretStr("")
    aws_secret_access_key: SecretStr = SecretStr("")
    aws_session_token: SecretStr = SecretStr("")
    aws_web_identity_token_file: OptionalFile = None
    """A token to exchange for keys of the object store."""
    aws_role_arn: str = ""
    """The role that the token is for."""
    aws_endpoint_url_sts: Endpoint = ""
    """The token service; empty: AWS' own for AWS, and else the object store's."""
    aws_shared_credentials_file: OptionalFile = None
    """INI file with keys as AWS' tools write it; read again when it changes."""
    aws_profile: str = ""
    """The profile in that file; empty: `default`."""

    # Not TAGSTREAM_ names: whether OpenTelemetry's own variables ask for an export.
    secret_files: Mapping[str, Path] = {}
    """Where the secrets came from that were in files, by field: clients read them again."""
    otlp_traces: bool = False
    otlp_metrics: bool = False

    @property
    def topics(self) -> tuple[str, ...]:
        """The names of the input topics."""
        return tuple(topic.name for topic in self.input_topics)

    @property
    def background_topics(self) -> tuple[str, ...]:
        """The names of those whose events wait for the others."""
        return tuple(topic.name for topic in self.input_topics if topic.background)

    @property
    def live_topic(self) -> str:
        """The first topic whose events wait for no others."""
        return next(topic.name for topic in self.input_topics if not topic.background)

    @property
    def captioner_address(self) -> str | None:
        """The address that captions come from, without a slash at its end; None: TAGSTREAM_CAPTIONER is none."""
        return self.captioner if is_address(self.captioner) else None

    def bundles(self) -> dict[str, PinnedBundle]:
        """The bundles of the live models, by what each is used as: one of `USES`, or a role."""
        named = {use: PinnedBundle.of(getattr(self, use)) for use in USES}
        own = {use: bundle for use, bundle in named.items() if bundle.name_or_folder not in NO_BUNDLE.get(use, ())}
        if self.captioner_address is not None:
            del own["captioner"]
        return own | {role: PinnedBundle.of(text) for role, text in self.roles.items()}
