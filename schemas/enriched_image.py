"""The outgoing events: EnrichedImage, Retraction and Skip.

Each names in `event` its input; (topic, partition, offset, index) and the kind are unique among them. Models are exact
when they are written: an unknown field is an error. Readers use `read_output`, which ignores unknown fields, because
later versions may add some. A whole number is one in JSON: text and `1e3` are invalid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self, TypeAlias
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, WithJsonSchema, model_validator
from pydantic_core import from_json, to_json

from .dead_letter import Reason
from .options import Options, OwnWant
from .result_kinds import NAME_PATTERN, RoleName, is_role_name
from .text import BY_MAX, OR_LATER, READS, Bucket, Key, Moment, OutcomeVersion, Sequencer, Short, subject

Status: TypeAlias = Literal["complete", "partial"]
HitOrMiss: TypeAlias = Literal["hit", "miss"]
Scope: TypeAlias = Literal["object", "version"]
Dialect: TypeAlias = Literal["own", "s3", "cloudevents"]

SkipReason: TypeAlias = Literal[
    "test-event",  # a bucket's own sign of life
    "event-type",  # changes no image
    "key-not-matched",  # outside TAGSTREAM_KEY_GLOBS
    "rendition",  # a smaller copy by TAGSTREAM_RENDITION: its original has an event of its own
    "not-sampled",  # outside TAGSTREAM_SAMPLE
    "not-replayed",  # a replay named other events of this message
    "stale",  # its store has another content by now than this older event says, or has the object that it says is gone
    "gone",  # the object does not exist any more
    "superseded",  # the object has another content by now; its event is on the way
]
"""Why an event was passed over: a closed list."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

FactsMissing: TypeAlias = Literal["exif-broken", "exif-too-large"]
"""Why an image's EXIF gave no facts: a closed list."""


def _taken(text: str) -> str:
    if not 1826 <= datetime.fromisoformat(text).year <= 2100:
        raise ValueError("no photograph is of before 1826 or after 2100")
    return text


TakenAt = Annotated[
    str,
    Field(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})?$"),
    AfterValidator(_taken),
]
Orientation = Annotated[int, Field(strict=True, ge=1, le=8)]
PHash = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
ThumbHash = Annotated[str, Field(max_length=40, pattern="^([A-Za-z0-9+/]{4})+([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$")]
Latitude = Annotated[float, Field(strict=True, ge=-90, le=90)]
Longitude = Annotated[float, Field(strict=True, ge=-180, le=180)]

PARENTS_MAX: Final = 3
"""Wider names of a label, at most."""


class _Exact(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        serialize_by_alias=True,
        validate_by_name=True,
        validate_by_alias=True,
        json_schema_serialization_defaults_required=True,
    )


class EventRef(_Exact):
    """The input that an output answers."""

    id: str = Field(description="The event's own id; for S3 its sequencer, or else topic:partition:offset:index.")
    dialect: Dialect | None = Field(default=None, description="null: the message has an unknown format.")
    time: Moment | None = Field(default=None, description="Time of the change, as the event states it.")
    topic: str
    partition: int = Field(strict=True, ge=0)
    offset: int = Field(strict=True, ge=0)
    index: int = Field(strict=True, ge=0, description="Counts the events inside one message, from 0.")


class ReadRendition(_Exact):
    """A smaller copy of the object, by TAGSTREAM_RENDITION."""

    bucket: Bucket
    key: Key
    width: int = Field(strict=True, ge=1, description="As its header says. Boxes of results are in its pixels.")
    height: int = Field(strict=True, ge=1)
    orientation: Annotated[int, Field(strict=True, ge=1, le=8)] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Of the rendition, by its EXIF. Absent: unknown.",
    )


class Source(_Exact):
    """The object that was read, or of which a rendition was."""

    bucket: Bucket
    key: Key
    version_id: str | None = None
    etag: str = Field(description="ETag of the object, without quotes.")
    sequencer: Sequencer | None = Field(
        default=None,
        description="The event's, hexadecimal; for information. `version` gives the order.",
    )
    last_modified: Moment
    sha256: Sha256 = Field(description="Of the bytes that were read.")
    read: ReadRendition | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="The rendition that was read in the object's place. Absent: the object itself was.",
    )


class GoneSource(_Exact):
    """The object, or the version of one, that is gone."""

    bucket: Bucket
    key: Key
    version_id: str | None = None
    sequencer: Sequencer | None = None


class GeoPoint(_Exact):
    """Degrees, WGS 84."""

    latitude: Latitude
    longitude: Longitude


class ImageFacts(_Exact):
    """The image as its header says, and facts of its picture.

    The facts after `bytes` are of its EXIF and its pixels. They are no part of the message's id, and absent with
    TAGSTREAM_FACTS=off.
    """

    format: str = Field(description="jpeg, png, webp, gif, bmp, tiff or avif.")
    width: int = Field(strict=True, ge=1)
    height: int = Field(strict=True, ge=1)
    bytes: int = Field(strict=True, ge=1, description="Size of the object.")
    of: Annotated[Literal["rendition"], OR_LATER] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="rendition: the picture's facts are of `source.read`; format, width and height too, where the "
        "object's first bytes do not tell its own. Absent: all are of the object.",
    )
    taken_at: TakenAt | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="When the picture was taken, by the camera's clock: RFC 3339 where the EXIF has the offset from "
        "UTC, and else the local time without one.",
    )
    orientation: Orientation | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="As EXIF counts: how to turn an image of `width` × `height`. A TIFF's are upright, so it has 1.",
    )
    phash: PHash | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="64 bits in hex, which differ in few bits between copies of a picture. Absent of a flat image.",
    )
    thumbhash: ThumbHash | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="A tiny preview of the upright image: a ThumbHash of at most 30 bytes in base64.",
    )
    place: GeoPoint | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Where the picture was taken, by its GPS data: personal data, only with TAGSTREAM_FACTS=place.",
    )
    facts_missing: Annotated[FactsMissing, OR_LATER] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Why facts of the EXIF are missing, where it has a fault.",
    )


class Tag(_Exact):
    """A label above the tagger's threshold, or a person's tag."""

    name: str
    score: float = Field(strict=True, ge=0, le=1)
    label_id: int | None = Field(
        strict=True,
        ge=0,
        description="The label's place in the tagger's list; names may repeat, ids don't. null: a person's tag that "
        "the tagger does not know.",
    )
    translations: Mapping[str, str] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="The name in other languages, by language code, where the model knows any.",
    )
    parents: Annotated[tuple[str, ...], Field(max_length=PARENTS_MAX)] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Wider names of the label, nearest first, where the model knows any: hound, dog and animal of a "
        "beagle. They have no score and are no tags.",
    )
    source: Literal["person"] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="person: a person added it, and its score is 1. Absent: the tagger's answer.",
    )

    @model_validator(mode="after")
    def _said_by_someone(self) -> Self:
        if self.label_id is None and self.source is None:
            raise ValueError("only a person's tag may have no label_id")
        return self


class CorrectedTags(_Exact):
    """People's corrections of the image's tags, which override the tagger."""

    added: tuple[str, ...] = Field(
        default=(), fail_fast=True, description="Names, also of tags that the tagger does not know."
    )
    removed: tuple[str, ...] = Field(default=(), fail_fast=True)
    by: Annotated[tuple[Short, ...], Field(max_length=BY_MAX)] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Who said so, in alphabetical order: personal data, only with TAGSTREAM_CORRECTIONS_BY=on, and no "
        "part of the message's id.",
    )


class PaidTokens(_Exact):
    """Tokens of an answer, as the service counts them."""

    prompt: int = Field(strict=True, ge=0)
    completion: int = Field(strict=True, ge=0)


class CaptionText(_Exact):
    """A sentence about the image."""

    text: str
    score: float | None = Field(default=None, description="Mean log-probability of its tokens; null: it has none.")
    method: str = Field(description="How it was made: template, greedy, beam, or remote, by a service.")
    guided_by: tuple[str, ...] = Field(
        default=(), fail_fast=True, description="The tag names that it was written under."
    )
    model: Short | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="The model that a service answered with. Absent: no service, or it did not tell.",
    )
    usage: PaidTokens | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="What a service's answer cost. Absent: unknown, or nothing, as of a cached caption.",
    )


class Embedding(_Exact):
    """The image as a vector, in a space that other models share.

    Other models know the same space.
    """

    space: str = Field(description="Points are comparable within one space alone, e.g. clip-vit-b-16.")
    dimensions: int = Field(strict=True, ge=1, le=65_536)
    dtype: Literal["float16"] = Field(default="float16", description="IEEE 754 half precision, little-endian.")
    data: str = Field(pattern="^[A-Za-z0-9+/]*={0,2}$", description="The numbers in base64 (RFC 4648, section 4).")
    normalised: Literal[True] = Field(default=True, description="Of length 1 before rounding to the dtype.")
    model: str = Field(
        description="The digest of the model that gave it; of a dual encoder, of its image tower, whatever the labels."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.data) != 4 * -(-2 * self.dimensions // 3):
            raise ValueError("the data are not as many numbers as there are dimensions")
        return self


class ModelRef(_Exact):
    """What ran."""

    name: str
    digest: str = Field(
        description="sha256 in hex over all that an answer depends on besides the precision: weights, labels, "
        "vocabulary, transform, architecture, options."
    )
    precision: str
    random_weights: bool = Field(
        default=False, description="True: seeded random weights for trials; the answers mean nothing."
    )


class Models(_Exact):
    tagger: ModelRef | None = None
    captioner: ModelRef | None = None


USES: Final = tuple(Models.model_fields)
"""The uses of a model: each is a field of `Models`, and a setting of the worker."""


class Thresholds(_Exact):
    """Which scores became tags."""

    profile: str
    digest: str


class OutcomeOptions(_Exact):
    """The results that the event wanted, as a retag needs them."""

    want: tuple[OwnWant, ...] = Field(description="The event's wishes, or else the worker's default.")
    guide_tags: tuple[str, ...] = Field(default=(), fail_fast=True)
    profile: str | None = Field(default=None, description="The event's profile; null: the default one.")
    results: tuple[RoleName, ...] | None = Field(
        default=None,
        fail_fast=True,
        exclude_if=lambda value: value is None,
        description="Wanted results of kinds that packages add. Absent: none.",
    )


def _role_name(name: str) -> str:
    if not is_role_name(name):
        raise ValueError(f"a result's name must be {NAME_PATTERN}")
    return name


def _of_json(value: Mapping[str, Any]) -> Mapping[str, Any]:
    from_json(to_json(value), allow_inf_nan=False)  # which bounds the nesting too
    return value


class AddedResult(_Exact):
    """A result of a kind that a package adds."""

    model: ModelRef
    cache: HitOrMiss | None = Field(default=None, description="null: no lookup was made.")
    value: Annotated[Mapping[str, Any], AfterValidator(_of_json), WithJsonSchema({"type": "object"})] = Field(
        description="A JSON object as its kind defines it."
    )


class MissingResult(_Exact):
    """A wanted result that a partial image lacks."""

    want: RoleName | None = Field(
        default=None, description="Its name, as `options` calls it; null: several, of kinds that the worker lacks."
    )
    reason: Annotated[Reason, OR_LATER]


class Cache(_Exact):
    """Results from the cache; null: no lookup was made."""

    source: HitOrMiss | None = None
    tags: HitOrMiss | None = None
    caption: HitOrMiss | None = None
    embedding: HitOrMiss | None = Field(default=None, exclude_if=lambda value: value is None)


class _Output(_Exact):
    def to_bytes(self) -> bytes:
        """JSON in UTF-8, as it travels."""
        return self.__pydantic_serializer__.to_json(self)


_VERSION = Field(
    default=None,
    exclude_if=lambda value: value is None,
    description="Microseconds since 1970 on the store's clock: of two outputs with one document_id the greater is the "
    "newer. Absent in older messages.",
)
_DOCUMENT_ID = Field(
    default=None,
    exclude_if=lambda value: value is None,
    description="The record's key as text. Absent in older messages.",
)


class EnrichedImage(_Output):
    """An image with its tags and its caption. Indexers upsert on `document_id`, unless their document is newer."""

    schema_name: Literal["enriched-image/1"] = Field(default="enriched-image/1", alias="schema")
    id: str = Field(description="The same for a redelivery, another for a new upload of the same bytes.")
    subject: str = Field(description="bucket/key, nothing escaped.")
    document_id: str | None = _DOCUMENT_ID
    version: OutcomeVersion | None = _VERSION
    status: Status = Field(description="partial: a wanted part is missing, and `reason` says why.")
    reason: Annotated[Reason, OR_LATER] | None = None
    missing: Annotated[tuple[MissingResult, ...], Field(fail_fast=True)] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="All results that a partial image lacks. Absent: it is complete, or an older message.",
    )
    event: EventRef
    source: Source
    image: ImageFacts
    # Read up to the first fault: an error for each of many tags takes a hundred times their memory.
    tags: tuple[Tag, ...] = Field(description="Best score first.", fail_fast=True)
    caption: CaptionText | None = Field(
        default=None, description="null: not wanted, no tag to make one of, or status is partial."
    )
    embedding: Embedding | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Absent: not wanted, or status is partial.",
    )
    results: Mapping[Annotated[str, AfterValidator(_role_name)], AddedResult] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Results of kinds that packages add, by name. Absent: none was wanted, or status is partial.",
    )
    corrections: CorrectedTags | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Absent: no person corrected the tags, or no corrections are read.",
    )
    options: OutcomeOptions | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Absent in older messages: a retag of them needs the image.",
    )
    models: Models
    thresholds: Thresholds
    timings_ms: Mapping[str, Annotated[float, Field(ge=0)]] = Field(description="Milliseconds by stage.")
    produced_at: Moment
    cache: Cache = Cache()

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.status == "partial") != (self.reason is not None):
            raise ValueError("a partial image has a reason, a complete one has none")
        scores = [tag.score for tag in self.tags]
        if scores != sorted(scores, reverse=True):
            raise ValueError("tags come by score, best first")
        if self.subject != subject(self.source.bucket, self.source.key):
            raise ValueError("the subject is bucket/key of the source")
        if self.document_id not in (None, self.message_key.decode()):
            raise ValueError("the document_id is the record's key")
        return self

    @property
    def message_key(self) -> bytes:
        """The object's name: one partition for all outputs of an object.

        A compacted topic keeps the newest.
        """
        return self.subject.encode()


def version_key(bucket: str, key: str, version_id: str) -> bytes:
    """The message key for outcomes of one version: `bucket?versionId=V/key`, V percent-encoded.

    No object has this name, because no bucket's name has a question mark, and no two versions share one.
    """
    return f"{bucket}?versionId={quote(version_id, safe='')}/{key}".encode()


class Retraction(_Output):
    """An image is gone: delete the documents of `subject`, and keep its `version`, so that no older one returns.

    With scope `version` only `source.version_id` is gone: delete that version's document alone.
    """

    schema_name: Literal["image-retraction/1"] = Field(default="image-retraction/1", alias="schema")
    subject: str = Field(description="bucket/key, nothing escaped.")
    document_id: str | None = _DOCUMENT_ID
    version: OutcomeVersion | None = _VERSION
    scope: Scope = "object"
    event: EventRef
    source: GoneSource
    produced_at: Moment

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.scope == "version" and self.source.version_id is None:
            raise ValueError("the retraction of a version names it")
        if self.subject != subject(self.source.bucket, self.source.key):
            raise ValueError("the subject is bucket/key of the source")
        if self.document_id not in (None, self.message_key.decode()):
            raise ValueError("the document_id is the record's key")
        return self

    @property
    def message_key(self) -> bytes:
        """`bucket/key`; for one version a key of its own, or it would compact the live image away."""
        if self.scope == "version":
            return version_key(self.source.bucket, self.source.key, self.source.version_id or "")
        return self.subject.encode()


class Skip(_Output):
    """An event that was rightly passed over, and why."""

    schema_name: Literal["skipped/1"] = Field(default="skipped/1", alias="schema")
    event: EventRef
    subject: str | None = Field(default=None, description="bucket/key, where the event names an object.")
    reason: Annotated[SkipReason, OR_LATER]

    @property
    def message_key(self) -> bytes:
        """The subject; without one, the event's coordinates."""
        event = self.event
        return (self.subject or f"{event.topic}:{event.partition}:{event.offset}:{event.index}").encode()


_OUTPUT: TypeAdapter[EnrichedImage | Retraction | Skip] = TypeAdapter(
    Annotated[EnrichedImage | Retraction | Skip, Field(discriminator="schema_name")]
)


def read_output(value: bytes) -> EnrichedImage | Retraction | Skip:
    """Read an enriched image, retraction or skip, also of a later version.

    A reason that this version does not know is kept as it is.

    Raises:
        ValueError: it is of no known kind.
    """
    return _OUTPUT.validate_json(value, extra="ignore", context=READS)


def output_of(document: object) -> EnrichedImage | Retraction | Skip:
    """As `read_output`, of values that were read from JSON."""
    return _OUTPUT.validate_python(document, extra="ignore", context=READS)


def reasons_in(document: Mapping[str, Any]) -> frozenset[Any]:
    """Why a partial image lacks results; empty for other outcomes.

    The document is unchecked JSON values. Raises KeyError, TypeError: it is of another shape.
    """
    if document.get("status") != "partial":
        return frozenset()
    return frozenset([document.get("reason"), *(each["reason"] for each in document.get("missing") or ())])


def enriched_id(
    *,
    bucket: str,
    key: str,
    version_id: str | None,
    etag: str,
    sequencer: str | None,
    event_id: str,
    models: Models,
    thresholds: Thresholds,
    options: Options,
    status: Status,
    corrections: CorrectedTags | None = None,
    results: Mapping[str, str] | None = None,
) -> str:
    """What an enriched image is known by: equal for a redelivery, different for a new upload of the same bytes.

    The lower-case hex sha256 of one JSON array in UTF-8, in the canonical form of RFC 8785 (no spaces, nothing
    escaped that need not be), so that no two inputs share an encoding and any language can repeat it:

        ["enriched-image/1", bucket, key,
         ["version", version_id] or else ["etag", etag],
         ["sequencer", sequencer] or else ["event", event_id],
         [tagger digest or null, captioner digest or null, thresholds digest],
         [want, guide_tags, profile or null], status]

    where `want` is that of the outcome; where the event wants results of added kinds, ["results", names, digests] as
    one more element, with `options.results` and the digest of each one's model, or null for a missing result; and then,
    where persons corrected its tags, ["corrections", added, removed].

    Every field of `models` and of `options` is part of it, in the order of the schema: other options, another id.

    The precision is not part of it: the same weights are the same model.

    Args:
        results: digest of the model of each result of an added kind, by name.
    """
    parts: list[Any] = [
        "enriched-image/1",
        bucket,
        key,
        ["etag", etag] if version_id is None else ["version", version_id],
        ["event", event_id] if sequencer is None else ["sequencer", sequencer],
        [*(_digest(getattr(models, use)) for use in USES), thresholds.digest],
        [options.own, *(getattr(options, name) for name in _OPTIONS if name != "want")],
        status,
    ]
    if wanted := options.results:
        parts.append(["results", wanted, [(results or {}).get(name) for name in wanted]])
    if corrections is not None:
        parts.append(["corrections", corrections.added, corrections.removed])
    return hashlib.sha256(to_json(parts)).hexdigest()


_OPTIONS = tuple(Options.model_fields)


def _digest(model: ModelRef | None) -> str | None:
    return None if model is None else model.digest
