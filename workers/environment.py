"""Reads the environment once: values, their errors as sentences, and how settings are shown.

Commands call `read_here`; all other code takes arguments. An empty value counts as not set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import ByteSize, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from schemas.enriched_image import USES
from schemas.options import WANTS
from workers.errors import Misconfigured, closest
from workers.rendition import Rendition
from workers.settings import (
    FIELDS_KIND,
    MIB,
    NO_SIZE,
    PREFIX,
    PinnedBundle,
    SecretUrl,
    Settings,
    expanded,
    reaches_no_further,
)

Fields = Mapping[str, FieldInfo]
SettingsT = TypeVar("SettingsT", bound=Settings)


def fields_of(model: type[Settings]) -> Fields:
    """The fields that have a variable, in the order of the table."""
    return {name: info for name, info in model.model_fields.items() if info.json_schema_extra}


FIELDS: Fields = fields_of(Settings)

_OF_OTHERS = ("TAGSTREAM_INDEX_",)
"""Prefixes of variables that belong to another package, which reads them with a model of its own."""


def require(settings: Settings, *fields: str) -> Settings:
    """Require that these fields are set. Raises Misconfigured: names each that is not, and what it is."""
    if missing := list(_missing(settings, fields)):
        raise Misconfigured("\n".join(missing))
    return settings


def require_readable(settings: Settings, field: str) -> None:
    """Require that the file of this field, if set, can be read. Raises Misconfigured: it can't."""
    path: Path | None = getattr(settings, field)
    try:
        if path is not None:
            path.open("rb").close()
    except OSError as error:
        raise Misconfigured(f"{variable(field)}={path} can't be read: {error.strerror}") from error


def _missing(settings: Settings, fields: Iterable[str]) -> Iterator[str]:
    for field in fields:
        if not getattr(settings, field):
            yield f"{variable(field)} is not set. Meaning: {plain(type(settings).model_fields[field].description)}."


def _contradictions(settings: Settings) -> Iterator[str]:
    yield from _login_contradictions(settings)
    if bool(settings.kafka_tls_cert) != bool(settings.kafka_tls_key):
        yield "TAGSTREAM_KAFKA_TLS_CERT and TAGSTREAM_KAFKA_TLS_KEY go together: set both or none"
    if bool(settings.s3_access_key) != bool(settings.s3_secret_key):
        yield "TAGSTREAM_S3_ACCESS_KEY and TAGSTREAM_S3_SECRET_KEY go together: set both or none"
    if settings.aws_access_key_id and not settings.aws_secret_access_key:
        yield "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not: set both or none"
    if 0 < len(settings.cache_key.get_secret_value()) < 32:
        yield "TAGSTREAM_CACHE_KEY is too short: it must have at least 32 characters (openssl rand -hex 32)"
    for use in USES:
        named = PinnedBundle.of(getattr(settings, use))
        if named.digest and use not in settings.bundles():
            yield f"{variable(use)} has a digest, and {named.name_or_folder!r} is no bundle: leave the digest out"
    if settings.captioner_address and not settings.caption_model:
        yield f"TAGSTREAM_CAPTIONER={settings.captioner} needs TAGSTREAM_CAPTION_MODEL: the model to ask for"
    if FIELDS_KIND in settings.roles:
        yield f"TAGSTREAM_ROLES has {FIELDS_KIND!r}, which come with an address's captions: name them in TAGSTREAM_WANT"
    fields = [FIELDS_KIND] if settings.caption_file else []  # a command may have another captioner than the worker
    if not {*WANTS, *settings.roles, *fields}.issuperset(settings.want):
        yield (
            f"TAGSTREAM_WANT={','.join(settings.want)}: it must name some of {', '.join(WANTS)} and of the roles in "
            f"TAGSTREAM_ROLES ({', '.join(settings.roles) or 'none'}), or {FIELDS_KIND} with TAGSTREAM_CAPTION_FILE"
        )
    outputs = [settings.output_topic, settings.dead_letter_topic, settings.skipped_topic]
    for topic in (*settings.topics, settings.corrections_topic):
        if topic and topic in outputs:
            yield f"the topic {topic!r} is both read and written: the worker would read its own output"
    if settings.corrections_topic in settings.topics:
        yield f"the topic {settings.corrections_topic!r} can't hold both image events and corrections"
    try:
        Rendition.of(settings.rendition, settings.buckets)
    except ValueError as error:
        yield f"TAGSTREAM_RENDITION={settings.rendition} {error}"
    if settings.max_object_bytes > settings.encoded_bytes:
        yield "TAGSTREAM_MAX_OBJECT_BYTES is above an eighth of TAGSTREAM_MEMORY: such an object could never be fetched"


def _login_contradictions(settings: Settings) -> Iterator[str]:
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
    if urlsplit(endpoint).scheme == "http" and not reaches_no_further(endpoint):
        yield "TAGSTREAM_KAFKA_TOKEN_ENDPOINT must be https:// (RFC 6749): a password is sent there"


def variable(field: str) -> str:
    """The name of a field's environment variable."""
    return PREFIX + field.upper()


def is_secret(field: str, fields: Fields = FIELDS) -> bool:
    """Whether it is masked when shown, and may come from `<variable>_FILE`."""
    return isinstance(fields[field].default, SecretStr)


def variables() -> frozenset[str]:
    """Every name that can be set, with `…_FILE` for secrets."""
    files = {f"{variable(field)}_FILE" for field in FIELDS if is_secret(field)}
    return frozenset({variable(field) for field in FIELDS} | files)


_TOKEN = 8
"""Shorter values of a query are taken for words."""


def secret_values(settings: Settings) -> list[str]:
    """All secrets to mask; of a URL only its password."""
    fields = type(settings).model_fields
    values = [getattr(settings, field) for field in fields if is_secret(field, fields)]
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


def all_secrets(settings: Settings | None = None) -> list[str]:
    """Texts that this process's log must not show: secrets of settings and of URLs."""
    return [*([] if settings is None else secret_values(settings)), *url_tokens(os.environ)]


def wants_json_log() -> bool:
    """Whether the log is JSON; asked before the settings are read, for complaints about them."""
    return os.environ.get("TAGSTREAM_LOG_FORMAT", "").strip().lower() == "json"


def read(environ: Mapping[str, str]) -> Settings:
    """The settings of this environment. Raises Misconfigured: a line for each error, as `examine` finds them."""
    settings, wrong = examine(Settings, environ)
    if wrong:
        raise Misconfigured("\n".join(wrong))
    return settings


def read_here(**overrides: str) -> Settings:
    """As `read`, of this process's variables; `overrides` replace some of them."""
    return read({**os.environ, **overrides})


def examine(model: type[SettingsT], environ: Mapping[str, str], *required: str) -> tuple[SettingsT, list[str]]:
    """The settings of this environment, and a line for each error; another package may add to the settings.

    Fields with a wrong value have their default. Contradictions are looked for only if no value is wrong. Raises
    Misconfigured: one line for each unknown name and unreadable file. They are told alone, because they explain what
    else seems to be missing.
    """
    values = _values(environ, model)
    try:
        settings = _validated(model, values)
    except ValidationError as error:
        bad = {str(problem["loc"][0]) for problem in error.errors()}
        settings = _validated(model, {field: value for field, value in values.items() if field not in bad})
        missing = _missing(settings, [field for field in required if field not in bad])
        return settings, [*missing, *_sentences(error, fields_of(model))]
    return settings, [*_missing(settings, required), *(f"{says}." for says in _contradictions(settings))]


def _validated(model: type[SettingsT], values: Mapping[str, Any]) -> SettingsT:
    settings = model.model_validate(values)
    endpoint = settings.s3_endpoint or settings.aws_endpoint_url_s3
    return settings.model_copy(update={"s3_endpoint": endpoint})


def _values(environ: Mapping[str, str], model: type[Settings]) -> dict[str, Any]:
    """The values that are set, as text by field."""
    fields = fields_of(model)
    values: dict[str, Any] = {}
    files: dict[str, Path] = {}
    wrong: list[str] = []
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or not text.strip() or _made_by_kubernetes(name, text):
            continue
        if model is Settings and name.startswith(_OF_OTHERS):
            continue
        try:
            field, value = _take(name, text, fields)
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
    found: dict[str, Any] = {"otlp_traces": _exports(environ, "TRACES"), "otlp_metrics": _exports(environ, "METRICS")}
    if xdg := environ.get("XDG_STATE_HOME"):
        found["state_dir"] = Path(xdg) / "tagstream"
    return {**found, **_aws(environ, "s3_access_key" in values), **values, "secret_files": files}


def _take(name: str, text: str, fields: Fields) -> tuple[str, str]:
    """The field that a variable sets, and its value. Raises ValueError: a sentence for the user."""
    field = name.removeprefix(PREFIX).lower()
    if field in fields and name.isupper():
        return field, text
    secret = field.removesuffix("_file")
    if secret != field and secret in fields and name.isupper():
        if not is_secret(secret, fields):
            raise ValueError(f"{name}: only secrets are read from files; set {variable(secret)} itself")
        path = Path(text)
        try:
            return secret, read_secret(expanded(path)).rstrip("\r\n")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"{name}={path} can't be read: {reason}") from error
    raise ValueError(f"{name} is not a setting.{_nearest(name, fields)}")


def unknown(name: str) -> str:
    """A sentence about a variable that looks like a setting; empty if it is one."""
    if not name.startswith(PREFIX) or name.startswith(_OF_OTHERS) or name in variables():
        return ""
    return f"{name} is not a setting.{_nearest(name, FIELDS)}"


_LARGEST_FILE = 64 * 1024
"""The most bytes of a file with a secret."""


def read_secret(path: Path) -> str:
    """The text of a file with a secret.

    Raises OSError, ValueError: it can't be read, is too large, or no text in UTF-8. None of them quotes it.
    """
    with path.open("rb") as file:
        content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise ValueError(f"it has more than {_LARGEST_FILE:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None


def _nearest(name: str, fields: Fields) -> str:
    bare = name.removeprefix(PREFIX).upper()
    known = [field.upper() for field in fields]
    known += [f"{field.upper()}_FILE" for field in fields if is_secret(field, fields)]
    near = closest(bare, known)
    return f" Do you mean {PREFIX}{near}?" if near else " `tagstream settings` lists them all."


def _made_by_kubernetes(name: str, text: str) -> bool:
    """Whether Kubernetes made this variable for a Service called tagstream…."""
    if re.search(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_|$)", name):
        return True
    return name.endswith("_PORT") and re.match(r"(tcp|udp|sctp)://", text) is not None


_AWS_LOGINS = (
    ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
    ("aws_web_identity_token_file", "aws_role_arn", "aws_endpoint_url_sts"),
    ("aws_shared_credentials_file", "aws_profile"),
)
"""Fields of each login, in the order of AWS' tools: the first field that is set chooses its login."""


def _aws(environ: Mapping[str, str], has_keys: bool) -> dict[str, str]:
    """Values from AWS' variables: of one login at most, and of none if TAGSTREAM_S3_ACCESS_KEY is set."""
    login = next((names for names in _AWS_LOGINS if environ.get(names[0].upper())), _AWS_LOGINS[-1])
    names = ("aws_endpoint_url_s3", *(() if has_keys else login))
    found = {name: text for name in names if (text := environ.get(name.upper()))}
    if "aws_profile" in found:
        found.setdefault("aws_shared_credentials_file", "~/.aws/credentials")
    return found | {"aws_region": environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION", "")}


def _exports(environ: Mapping[str, str], signal: str) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environ.get(f"OTEL_{signal}_EXPORTER", "otlp") != "otlp":
        return False
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return any(environ.get(name) for name in endpoints)


_SAYS = {
    "byte_size": NO_SIZE,
    "bool_parsing": "it must be on or off",
    "int_parsing": "it must be a whole number",
    "float_parsing": "it must be a number",
    "too_short": "it must name at least one",
    "string_too_short": "it must not be empty",
}
"""Clearer words for some of pydantic's kinds of error."""


def _sentences(error: ValidationError, fields: Fields) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_context=False):
        if problem["type"] == "default_factory_not_called":  # it follows from another field, which is reported
            continue
        says = _SAYS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
        field = str(problem["loc"][0])
        ours = field in fields
        hidden = (ours and is_secret(field, fields)) or "@" in str(problem["input"])
        given = "" if hidden else f"={_without_query(field, problem['input'])}"
        meaning = f" Meaning: {plain(fields[field].description)}." if ours else ""
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
        (tuple, lambda values: ",".join(map(str, values))),
        (dict, lambda bundles: ",".join(f"{role}={bundle}" for role, bundle in bundles.items())),
        (ByteSize, lambda size: f"{size // MIB}MiB" if size % MIB == 0 else str(int(size))),
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


def group_of(field: str) -> str:
    """The heading that a field stands under."""
    extra = FIELDS[field].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["group"])


def default_text(field: str) -> str:
    """A field's default as a variable's text, or empty."""
    return _as_text(FIELDS[field].default)
