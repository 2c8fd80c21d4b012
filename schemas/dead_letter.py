"""Dead letters: the original record's bytes, and our additional headers.

Key, value and headers stay unchanged, so that any Kafka tool can send a dead letter back; headers with the prefix
`tagstream-` say the reasons. Further headers serve Spring for Apache Kafka and Kafka UIs (`CUSTOMARY`). Clients that
refuse nulls get empty bytes instead, and the header `tagstream-nulls` names the nulls (`without_nulls`, `with_nulls`).
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from .printable import printable
from .result_kinds import RoleName
from .text import OR_LATER, READS, Headers, first_fault

Stage: TypeAlias = Literal["parse", "fetch", "decode", "annotate", "caption", "publish"]
"""Where a failure was found out."""

ParseReason: TypeAlias = Literal[
    "batch-too-large",  # opened, it would hold more than is allowed
    "batch-unreadable",
    "too-many-headers",
    "undecodable",  # null, not UTF-8 JSON, or JSON beyond the bounds of size, nesting and digits
    "not-an-event",  # JSON of no dialect
    "schema",  # of a dialect, but not as its schema says
    "bucket-not-allowed",
    "unknown-profile",  # names a threshold profile that this worker does not have
    "too-many-records",
]
"""Of the record, or a batch of them, and its message."""

FetchReason: TypeAlias = Literal[
    "unreadable",  # the store keeps failing for it, and not for others
    "forbidden",
    "object-too-large",
    "empty-object",
    "fetch-too-slow",
]
"""Of the object."""

DecodeReason: TypeAlias = Literal[
    "not-an-image",
    "format-not-allowed",
    "broken-image",
    "too-many-pixels",
    "too-small",
    "too-complex",  # more segments, scans, chunks, boxes or frames than any image needs
    "decode-failed",  # the decoder raised an error that no broken image explains
    "decode-timeout",
    "decode-memory",
    "kills-decoder",
]
"""Of the image."""

AnnotateReason: TypeAlias = Literal[
    "annotate-failed",
    "kills-worker",
    "role-not-here",  # wants a result that this worker does not give
]
CaptionReason: TypeAlias = Literal[
    "caption-failed",
    "caption-unavailable",  # the service did not answer in time
    "caption-refused",  # the service's model would not, or its answer was no caption
    "caption-budget",  # the day's tokens are spent
]
PublishReason: TypeAlias = Literal["result-too-large", "skipped-by-operator"]

Reason: TypeAlias = Literal[ParseReason, FetchReason, DecodeReason, AnnotateReason, CaptionReason, PublishReason]
"""Why a record, or one event in it, was refused: a closed list. A replay is chosen by it."""

REASONS_OF: Final[Mapping[Stage, tuple[Reason, ...]]] = {
    "parse": get_args(ParseReason),
    "fetch": get_args(FetchReason),
    "decode": get_args(DecodeReason),
    "annotate": get_args(AnnotateReason),
    "caption": get_args(CaptionReason),
    "publish": get_args(PublishReason),
}
"""Each reason belongs to one stage."""
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
PARTIAL_ALONE: Final[frozenset[Reason]] = frozenset(["caption-unavailable", "caption-refused", "caption-budget"])
"""Reasons of partial images that bring no dead letter: a retag completes these images."""

DETAIL_MAX = 200
"""Characters that a detail keeps."""
DETAILED_FAILURES = 100
"""Failures of one message that keep their detail, so that the header stays far below a topic's message limit."""

PREFIX: Final = "tagstream-"
ONLY: Final = "tagstream-only"
CUSTOMARY: Final = (
    "kafka_dlt-original-topic",
    "kafka_dlt-original-partition",
    "kafka_dlt-original-offset",
    "kafka_dlt-original-timestamp",
    "kafka_dlt-original-timestamp-type",
    "kafka_dlt-exception-message",
    "x-original-topic",
)
"""Headers that other software reads, in its own encodings: Spring's DeadLetterPublishingRecoverer writes the first six
(numbers in big-endian, 4 bytes of the partition, 8 of offset and timestamp)."""
INPUT_KEY: Final = "tagstream-input-key"
"""Header of a record's first enriched image, retraction or skip: the producer's own record key, of at most 1,024
bytes."""
INPUT_KEY_SHA256: Final = "tagstream-input-key-sha256"
"""In its place for a longer key: the key's sha256, lower-case hex."""
INPUT_KEY_BYTES_MAX: Final = 1024

KEYS_BYTES_MAX: Final = 64_000
"""Of the header that names the keys of all records that one dead letter stands for."""

_SCHEMA: Final = "dead-letter/1"
_READ_MAX = 4_000
"""Characters of a detail that are looked at; of a longer one the rest is cut before any work is done on it."""


def _one_line(detail: object) -> object:
    """A detail as one bounded printable line, without URLs' query strings."""
    if not isinstance(detail, str):
        return detail
    line = printable(" ".join(_without_query(word) for word in detail[:_READ_MAX].split()))
    return line if len(line) <= DETAIL_MAX else line[: DETAIL_MAX - 1] + "…"


def _without_query(word: str) -> str:
    """A URL without its part from the first `?` or `#` on; any other word unchanged."""
    scheme, separator, rest = word.partition("://")
    path = rest.partition("?")[0].partition("#")[0]
    return f"{scheme}{separator}{path}?…" if len(path) < len(rest) else word


class Failure(BaseModel):
    """What became of an event that could not be enriched."""

    model_config = ConfigDict(frozen=True)

    index: int = Field(strict=True, ge=0, description="Counts the events inside one message, from 0.")
    stage: Stage
    reason: Annotated[Reason, OR_LATER]
    detail: Annotated[str, BeforeValidator(_one_line)] = Field(
        max_length=DETAIL_MAX, description="One line for a person."
    )
    want: RoleName | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="The result that is missing, as `options.want` calls it. Absent: not one of them alone.",
    )


def _base64(key: str) -> str:
    b64decode(key, validate=True)
    return key


_Keys: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_base64)] | None, ...], Field(fail_fast=True)]


class DeadLetter(BaseModel):
    """The added headers of a dead letter, read back."""

    model_config = ConfigDict(frozen=True)

    topic: str = Field(pattern=r"^[A-Za-z0-9._-]{1,249}$", description="As Kafka names topics.")
    partition: int = Field(ge=0, lt=2**31)
    offset: int = Field(ge=0, lt=2**63)
    last_offset: int = Field(ge=0, lt=2**63)
    timestamp_ms: int = Field(ge=-(2**63), lt=2**63)
    failures: tuple[Failure, ...] = Field(min_length=1)
    attempts: int = Field(ge=1)
    worker: str = Field(max_length=256)
    models: dict[str, str]
    nulls: tuple[str, ...] = ()
    keys: tuple[str | None, ...] = Field(
        default=(), description="Of the records that it stands for, in base64, in the order of their offsets."
    )
    truncated: bool = False

    @property
    def place(self) -> str:
        """Where the original stands, or all of them."""
        last = f"-{self.last_offset}" if self.last_offset > self.offset else ""
        return f"{self.topic}:{self.partition}:{self.offset}{last}"

    def keys_or(self, key: bytes | None) -> list[bytes | None]:
        """Of the records that it stands for; of a single one the dead letter's own key."""
        return [None if each is None else b64decode(each) for each in self.keys] or [key]

    @property
    def indexes(self) -> frozenset[int]:
        """Indexes of the failed events, which a replay is for."""
        return frozenset(failure.index for failure in self.failures)


# Lists are read up to their first fault: an error for each of many items takes a hundred times the items' memory.
_FAILURES = TypeAdapter(Annotated[tuple[Failure, ...], Field(fail_fast=True)])
_NULLS = TypeAdapter(Annotated[tuple[str, ...], Field(fail_fast=True)])
_KEYS = TypeAdapter(_Keys)
_MODELS = TypeAdapter(dict[str, str])
_MODELS_BYTES_MAX = 10_000


def dead_letter_headers(
    *,
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    failures: Sequence[Failure],
    attempts: int,
    worker: str,
    models: Mapping[str, str],
    nulls: Sequence[str] = (),
    keys: Sequence[bytes | None] = (),
    truncated: bool = False,
    last_offset: int | None = None,
    append_time: bool = False,
) -> Headers:
    """The headers to append to the original's.

    Args:
        topic, partition, offset, timestamp_ms: the original record's; milliseconds since the Unix epoch.
        append_time: the timestamp is the broker's, and not the producer's.
        last_offset: of a batch that stands for many records; None: it is one record.
        failures: one for each event that failed; at least one.
        attempts: how often it was tried here.
        worker: the worker's version.
        models: version by role, e.g. {"tagger": "compact 3f2a…"}.
        nulls: what was null, as `without_nulls` names it.
        keys: of the records from `offset` to `last_offset`, which are equal but for them; empty: it is one record, or
            a batch that could not be read.
        truncated: not all of the original is here: its value would not have fitted, or it can't be read.
    """
    if not failures:
        raise ValueError("a dead letter names at least one failure")
    detailed = [
        failure if number < DETAILED_FAILURES else failure.model_copy(update={"detail": ""})
        for number, failure in enumerate(failures)
    ]
    values = {
        "schema": _SCHEMA.encode(),
        "topic": topic.encode(),
        "partition": b"%d" % partition,
        "offset": b"%d" % offset,
        "last-offset": b"%d" % (offset if last_offset is None else last_offset),
        "timestamp": b"%d" % timestamp_ms,
        "failures": _FAILURES.dump_json(tuple(detailed)),
        "attempts": b"%d" % attempts,
        "worker": worker.encode(),
        "models": _json(dict(models)),
        "nulls": _json(list(nulls)),
        **({"keys": _json([None if key is None else b64encode(key).decode() for key in keys])} if keys else {}),
        "truncated": b"true" if truncated else b"false",
    }
    customary = (
        topic.encode(),
        partition.to_bytes(4, "big"),
        offset.to_bytes(8, "big"),
        timestamp_ms.to_bytes(8, "big", signed=True),
        b"LogAppendTime" if append_time else b"CreateTime",
        _sentence(failures),
        topic.encode(),
    )
    own = tuple((PREFIX + name, value) for name, value in values.items())
    return (*own, *zip(CUSTOMARY, customary, strict=True))


def _sentence(failures: Sequence[Failure]) -> bytes:
    """The first failure as a sentence, and how many more there are."""
    first = failures[0]
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return f"{first.stage}: {first.reason}: {first.detail}{more}".encode("utf-8", "replace")


def is_dead_letter(headers: Headers) -> bool:
    """Whether a record claims to be a dead letter."""
    return any(name == f"{PREFIX}schema" for name, _ in headers)


def read_dead_letter_headers(headers: Headers) -> DeadLetter:
    """Read a dead letter's headers; an unknown reason is kept as text.

    Raises:
        ValueError: these are not a dead letter's headers; the text says what is missing or wrong.
    """
    own = {name.removeprefix(PREFIX): value or b"" for name, value in headers if name.startswith(PREFIX)}
    schema = own.get("schema", b"").decode("utf-8", "replace")
    if schema != _SCHEMA:
        found = repr(schema[:60])
        raise ValueError(f"not a dead letter of this project: header tagstream-schema is {found}, not {_SCHEMA!r}")
    try:
        offset, last_offset = int(own["offset"]), int(own["last-offset"])
        keys = _KEYS.validate_json(own.get("keys", b"[]"))
        if keys and len(keys) != last_offset - offset + 1:
            raise ValueError(f"{len(keys)} keys of the offsets {offset} to {last_offset}")
        return DeadLetter(
            topic=own["topic"].decode(),
            partition=int(own["partition"]),
            offset=offset,
            last_offset=last_offset,
            timestamp_ms=int(own["timestamp"]),
            failures=_FAILURES.validate_json(own["failures"], context=READS),
            attempts=int(own["attempts"]),
            worker=own["worker"].decode(),
            models=_MODELS.validate_json(own["models"][:_MODELS_BYTES_MAX]),
            nulls=_NULLS.validate_json(own["nulls"]),
            keys=keys,
            truncated=own["truncated"] == b"true",
        )
    except KeyError as missing:
        raise ValueError(f"a dead letter without the header tagstream-{missing.args[0]}") from None
    except (ValidationError, ValueError) as error:
        raise ValueError(f"a dead letter with a header that does not read: {first_fault(error)}") from None


def bytes_in_keys(key: bytes | None) -> int:
    """Bytes of a key in the header that lists several records' keys."""
    return len("null,") if key is None else 4 * -(-len(key) // 3) + len('"",')


def input_key(key: bytes | None) -> Headers:
    """The header by which an outcome names its input record's key; empty for a null key."""
    if key is None:
        return ()
    if len(key) <= INPUT_KEY_BYTES_MAX:
        return ((INPUT_KEY, key),)
    return ((INPUT_KEY_SHA256, hashlib.sha256(key).hexdigest().encode()),)


def only_indexes(headers: Headers) -> frozenset[int] | None:
    """The events that a replay is for, by the header `tagstream-only` ("0,3"); None means all.

    A header that does not read counts as absent: to do too much is safe, to do nothing would lose the record.
    """
    written = [value for name, value in headers if name == ONLY]
    if not written or written[-1] is None or not re.fullmatch(rb"[0-9]{1,3}(?:,[0-9]{1,3})*+", written[-1]):
        return None
    return frozenset(int(index) for index in written[-1].split(b","))


def strip_own_headers(headers: Headers) -> Headers:
    """Without every `tagstream-*` and `CUSTOMARY` header, no matter who put it there."""
    return tuple(header for header in headers if not header[0].startswith(PREFIX) and header[0] not in CUSTOMARY)


class Nonnull(NamedTuple):
    """A record without nulls, which every client can send, and its nulls."""

    key: bytes
    value: bytes
    headers: Headers
    nulls: tuple[str, ...]


def without_nulls(key: bytes | None, value: bytes | None, headers: Headers) -> Nonnull:
    """Empty bytes in the place of nulls; `nulls` names them: "key", "value", "headers[2]" (from 0)."""
    nulls = [name for name, content in (("key", key), ("value", value)) if content is None]
    nulls += [f"headers[{number}]" for number, (_, content) in enumerate(headers) if content is None]
    return Nonnull(key or b"", value or b"", tuple((name, content or b"") for name, content in headers), tuple(nulls))


def with_nulls(
    key: bytes | None, value: bytes | None, headers: Headers, nulls: Sequence[str]
) -> tuple[bytes | None, bytes | None, Headers]:
    """The original record, from the result of `without_nulls`. Headers that we appended come after and stay."""
    named = frozenset(nulls)
    restored = tuple(
        (name, None if f"headers[{number}]" in named else content) for number, (name, content) in enumerate(headers)
    )
    return None if "key" in named else key, None if "value" in named else value, restored


def replay(
    key: bytes | None, value: bytes | None, headers: Headers
) -> list[tuple[bytes | None, bytes | None, Headers]]:
    """The records that replay a dead letter: originals, and which events failed.

    It is one, or one for each of the dead letter's keys.

    Raises:
        ValueError: it is no dead letter, or its value had to be dropped; the text is fit for a person.
    """
    dead_letter = read_dead_letter_headers(headers)
    if dead_letter.truncated:
        raise ValueError(f"not all of the original was kept; it may still stand at {dead_letter.place}")
    first_key, original_value, restored = with_nulls(key, value, headers, dead_letter.nulls)
    only = ",".join(str(index) for index in sorted(dead_letter.indexes))
    sent = (*strip_own_headers(restored), (ONLY, only.encode()))
    return [(each, original_value, sent) for each in dead_letter.keys_or(first_key)]


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
