"""The types that pass between the pipeline and its ports: frozen values without behaviour.

A `Record` is parsed into `Job`s, a Job's object is fetched (`Fetched`), inspected (`Facts`), decoded (`Image`),
annotated (`LabelScores`, `Caption`) and finished as `Outcome`s; the outcomes of a row of records are published as one
`Transaction`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Final, Literal, NamedTuple, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from schemas.dead_letter import Failure, Reason
from schemas.enriched_image import FactsMissing, Latitude, Longitude, Orientation, PHash, TakenAt, ThumbHash
from schemas.image_event import ImageEvent
from schemas.text import Bucket, Key

Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]
"""Kafka headers in order; a name may come more than once, a value may be null."""

Pixels: TypeAlias = NDArray[np.uint8]
"""One image as a model's Transform leaves it: (height, width, 3), RGB."""

SCORE_PAIR: Final = np.dtype([("label", "<u4"), ("score", "<f4")])
"""A label's id and score, as `schemas.stored_scores.PackedScores.pairs` has them."""


class Partition(NamedTuple):
    """A topic's partition."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.number}"


Lane: TypeAlias = Literal["live", "background"]
"""Background records wait for live ones."""


class Membership(NamedTuple):
    """This worker's member id and generation in the consumer group; without a group an empty id and -1."""

    generation: int
    member_id: str


NO_MEMBERSHIP = Membership(-1, "")


LogFields: TypeAlias = Mapping[str, str | int | Sequence[str]]


@runtime_checkable
class HasLogFields(Protocol):
    """An argument whose fields a JSON log line also gets."""

    def log_fields(self, *, keys: bool) -> LogFields:
        """Args:
        keys: whether the line may tell the object's key, as debug lines may.
        """


@dataclass(frozen=True, slots=True, order=True)
class Coordinates:
    """An outcome's input: topic, partition, offset; `index` counts the events of one record's message, from 0."""

    topic: str
    partition: int
    offset: int
    index: int

    def __str__(self) -> str:
        """The record's name in log lines: `topic:partition:offset, index 0`."""
        return f"{self.topic}:{self.partition}:{self.offset}, index {self.index}"

    def log_fields(self, *, keys: bool) -> LogFields:
        return {
            "tagstream.topic": self.topic,
            "tagstream.partition": self.partition,
            "tagstream.offset": self.offset,
            "tagstream.index": self.index,
        }


@dataclass(slots=True, eq=False)
class Assignment:
    """One partition assigned to this worker, from its assignment to its revocation. Compared by identity.

    It is ended from the client's I/O thread (revoked, lost) or the poll thread (a new member id), once and for all.
    A job of an ended assignment may finish on the device and fill the cache; the ledger drops it.

    Args:
        background: whether its records wait for those of other partitions; the poll thread sets it at the start.
    """

    partition: Partition
    member_id: str
    background: bool = False
    _ended: threading.Event = field(default_factory=threading.Event, init=False)

    def end(self) -> None:
        self._ended.set()

    @property
    def current(self) -> bool:
        return not self._ended.is_set()

    def __repr__(self) -> str:
        return f"<Assignment {self.partition} of {self.member_id!r}{'' if self.current else ', ended'}>"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a record or batch can't be read within bounds.

    Args:
        reason: `batch-too-large`, `batch-unreadable` or `too-many-headers`.
    """

    reason: Reason
    detail: str


def record_size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """Bytes that a record holds in memory, Python's objects included; at most a few percent too low (measured)."""
    size = 480 + len(key or b"") + len(value or b"")
    if not headers:
        return size
    # A header is a pair, a text of up to four bytes a character, and bytes.
    return size + sum(190 + (4 - 3 * name.isascii()) * len(name) + len(content or b"") for name, content in headers)


@dataclass(frozen=True, slots=True)
class Record:
    """One record of an input topic, as it came; or, where `unreadable` says why, what could not be read there.

    What could not be read may stand for many records: a batch that is not opened is one `Record` of many offsets. Its
    value is then the batch's own bytes, or null, and never an event.

    Args:
        offset: its own, or the first of those that it stands for.
        offsets: how many offsets it stands for, from `offset` on.
        append_time: the timestamp is when the broker appended it, and not when the producer made it.
        stored: its part of the bytes of its batch as the broker stores it; 0: not known, it counts as its size.
        repeats: in its batch stands, one offset before it, a record that differs in nothing but its key.
    """

    partition: Partition
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    assignment: Assignment = field(compare=False)
    offsets: int = 1
    unreadable: Unreadable | None = None
    append_time: bool = False
    stored: int = field(default=0, compare=False)
    repeats: bool = field(default=False, compare=False)
    size: int = field(init=False, compare=False, repr=False)
    """Bytes that it holds in memory, near enough for a budget."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", record_size(self.key, self.value, self.headers))
        if not self.stored:
            object.__setattr__(self, "stored", self.size)

    @property
    def next_offset(self) -> int:
        """The offset to commit once it is done."""
        return self.offset + self.offsets


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """One committed record as read outside of any consumer group. `Record` explains the fields from `offsets` on."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    offsets: int = 1
    unreadable: Unreadable | None = None
    append_time: bool = False
    stored: int = field(default=0, compare=False)
    repeats: bool = field(default=False, compare=False)

    @property
    def place(self) -> str:
        """`topic:partition:offset`, as people name it."""
        return f"{self.topic}:{self.partition}:{self.offset}"

    @property
    def size(self) -> int:
        """Bytes that it holds in memory, near enough for a budget."""
        return record_size(self.key, self.value, self.headers)


@dataclass(frozen=True, slots=True)
class Polled:
    """The result of one poll. `started` assignments deliver nothing until `RecordSource.start` opens them."""

    records: tuple[Record, ...]
    started: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One image to annotate: one event of one record.

    Args:
        only_newest: there is reason to think that a newer event of this object was handled before; the store is asked
            whether the object is still the one that this event names.
        original: the original is read, whatever renditions there are.
    """

    coordinates: Coordinates
    assignment: Assignment
    event: ImageEvent
    only_newest: bool = False
    original: bool = False

    def __str__(self) -> str:
        return str(self.coordinates)

    def log_fields(self, *, keys: bool) -> LogFields:
        """As its span has them: the event's id, and which object it is about."""
        subject = {"tagstream.subject": self.event.subject} if keys else {}
        return {**self.coordinates.log_fields(keys=keys), "tagstream.event_id": self.event.id, **subject}


@dataclass(frozen=True, slots=True)
class Original:
    """The original, where a rendition of it was read. Cached with `Facts`.

    Args:
        read_bucket, read_key: of the rendition.
        size: bytes of the original.
        format, width, height: as in `Facts`, of the original; "" and 0: its first bytes don't tell.
        told: what its EXIF tells; None: its first bytes don't, or it is not wanted.
        mode: TAGSTREAM_FACTS at that time.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    read_bucket: Bucket
    read_key: Key
    size: Annotated[int, Field(ge=1, lt=2**63)]
    format: Annotated[str, Field(pattern="^[a-z0-9 ]{0,16}$")] = ""
    width: Annotated[int, Field(ge=0, lt=2**31)] = 0
    height: Annotated[int, Field(ge=0, lt=2**31)] = 0
    told: PictureFacts | None = None
    mode: FactsMode = "off"


@dataclass(frozen=True, slots=True)
class Facts:
    """Known facts of an object and its image, without the pixels. Cached.

    Args:
        original: None: the object itself was read. Else `sha256` and all from `size` on are of its rendition.
    """

    sha256: str
    etag: str
    version_id: str | None
    last_modified: str
    """RFC 3339, UTC."""
    size: int
    """Bytes of the object."""
    format: str
    """Pillow's name in lower case: jpeg, png, webp, gif, bmp, tiff, avif."""
    width: int
    height: int
    decode_bytes: int
    """An upper bound of what decoding in full holds in memory, from the header and what was measured for its format."""
    pixel_bytes: int = 0
    """Bytes of each pixel in `decode_bytes`, if the image can be decoded at a part of its size. Not cached."""
    original: Original | None = None


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """An object's current version, as its store reports it.

    Args:
        version_id: None if the store keeps no versions of it.
        last_modified: RFC 3339, UTC; None: it does not tell.
    """

    etag: str
    version_id: str | None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as the store gave it.

    Args:
        last_modified: RFC 3339, UTC.
        date: of the answer, by the store's clock, as `last_modified`; None: it told none.
        rest: bytes of the object behind `body`, where only its first ones were wanted.
    """

    body: bytes
    etag: str
    version_id: str | None
    last_modified: str
    date: str | None = None
    rest: int = 0


@dataclass(frozen=True, slots=True)
class Fetched:
    """A fetched object in the hands of an intake, its bytes unread.

    Args:
        sha256: of the bytes, hex.
        etag, version_id, last_modified, date: as in `StoredObject`.
        handle: the intake's own.
        inspect_bytes: most memory of `Intake.inspect`.
        facts: what `Intake.inspect` would say, where a glance tells; None: it has to be asked.
        original: as in `Facts`.
        shapes: what width / height of a rendition may be; empty: anything.
    """

    job: Job
    sha256: str
    etag: str
    version_id: str | None
    last_modified: str
    size: int
    handle: object
    inspect_bytes: int
    facts: Facts | None = None
    date: str | None = None
    original: Original | None = None
    shapes: tuple[float, ...] = ()

    def fits(self, image: Facts) -> bool:
        """Whether the image has one of the shapes, within 2 %."""
        return not self.shapes or any(abs(image.width / image.height / shape - 1) <= 0.02 for shape in self.shapes)


@dataclass(frozen=True, slots=True)
class Transform:
    """A model's preprocessing as data, which the intake executes with Pillow.

    Args:
        size: side of the square that comes out, pixels.
        fit: "squash" resizes to size × size without keeping the aspect ratio; "crop" resizes the shorter side to
            `resize` and cuts the centre; "pad" makes the longer side `size` or less, never more than it was, and
            leaves the rest, right of it and below, black.
        resize: the shorter side before the cut; only for "crop".
        interpolation: Pillow's resampling filter, antialiased.
        exif_transpose: turn the image as its EXIF orientation says before anything else.
    """

    size: int
    fit: Literal["squash", "crop", "pad"] = "squash"
    resize: int = 0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    exif_transpose: bool = False


class ImageAbout(NamedTuple):
    """An image's size and format, for models whose answers depend on them.

    Args:
        format, width, height: as in `Facts`: of the stored file, before any turn.
        orientation: as EXIF counts, 1 to 8; None: unknown.
    """

    format: str
    width: int
    height: int
    orientation: int | None = None

    @classmethod
    def in_file(cls, facts: Facts, told: PictureFacts | None) -> ImageAbout:
        """Of a file's image; without facts of its picture the orientation is unknown."""
        return cls(facts.format, facts.width, facts.height, None if told is None else told.orientation)

    @classmethod
    def of(cls, pixels: Pixels) -> ImageAbout:
        """Of a self-test image, which no file holds."""
        height, width, _ = pixels.shape
        return cls("png", width, height, 1)


FactsMode: TypeAlias = Literal["on", "off", "place"]
"""TAGSTREAM_FACTS: whether the facts of pictures are read, and whether the place is among them."""
FACTS_VERSION: Final = "1"
"""The version of what `PictureFacts` says of the same bytes. A change of its definition makes another, which forgets
the cached ones."""


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """Facts of a picture's EXIF and pixels, as `schemas.enriched_image.ImageFacts` has them. Cached.

    Args:
        place: latitude and longitude in degrees, WGS 84.
        missing: why the EXIF gave no facts.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    taken_at: TakenAt | None = None
    orientation: Orientation | None = None
    phash: PHash | None = None
    thumbhash: ThumbHash | None = None
    place: tuple[Latitude, Longitude] | None = None
    missing: FactsMissing | None = None


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """The pixels of one job: one array for each Transform of the request.

    Args:
        facts: None: they were not wanted.
    """

    pixels: Mapping[Transform, Pixels]
    facts: PictureFacts | None = None

    @property
    def size(self) -> int:
        return sum(array.nbytes for array in self.pixels.values())


@dataclass(frozen=True, slots=True)
class Subset:
    """The labels of a tagger that an image needs scored; at least one. Compared by `digest`.

    Args:
        ids: label ids, ascending, each once.

    Raises:
        ValueError: they are none, or do not ascend.
    """

    ids: tuple[int, ...] = field(compare=False)
    digest: str = field(init=False)
    """Names the ids, hex."""

    def __post_init__(self) -> None:
        if not self.ids or any(one >= other for one, other in pairwise(self.ids)):
            raise ValueError("the label ids of a subset must ascend, and be at least one")
        named = hashlib.sha256(",".join(map(str, self.ids)).encode()).hexdigest()[:16]
        object.__setattr__(self, "digest", named)

    def __repr__(self) -> str:
        return f"<Subset of {len(self.ids)} labels, {self.digest}>"


@dataclass(frozen=True, slots=True)
class LabelScores:
    """A tagger's answer for one image: every label scored above the floor.

    Args:
        label_ids: (n,) int32, ascending.
        scores: (n,) float32 in 0..1, one for each id.
    """

    label_ids: NDArray[np.int32]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption and its source. `score` is the mean log-probability of its tokens; None for a template or a service.

    Args:
        model: the model that a service answered with; None: the worker's own, or a template.
        usage: what the answer cost; None: nothing, it is unknown, or the caption comes from the cache.
    """

    text: str
    score: float | None
    method: str
    """"template", the decoding: "beam", "greedy", or "remote"."""
    model: str | None = None
    usage: TokenUsage | None = None


class TokenUsage(NamedTuple):
    """Tokens of one answer, as the service counts them."""

    prompt: int
    completion: int


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """A service's caption, with the fields that TAGSTREAM_CAPTION_FILE wants."""

    caption: Caption
    fields: Mapping[str, str | float | int] | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One Kafka record to send. A null key or value is sent as such.

    Args:
        partition: its number; None: the key decides.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int | None = None
    size: int = field(init=False, compare=False, repr=False)
    """An upper bound of its size in a record batch, in bytes (record overhead by KIP-98's format v2)."""

    def __post_init__(self) -> None:
        size = 90 + len(self.key or b"") + len(self.value or b"")
        if self.headers:
            size += sum([10 + 3 * len(name) + len(value or b"") for name, value in self.headers])
        object.__setattr__(self, "size", size)


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a process is alive, started or ready.

    Args:
        reasons: why not, or notices if all is well; one line each, for people.
        idle_s: since its last work.
        in_flight: its images by place.
    """

    ok: bool
    reasons: tuple[str, ...] = ()
    idle_s: float | None = None
    in_flight: Mapping[str, int] = field(default_factory=dict)


OutcomeKind: TypeAlias = Literal["enriched", "partial", "retraction", "skip", "dead-letter"]
"""Kinds of outcomes, by the names that metrics, commands and documentation use."""
OUTCOME_KINDS: Final[tuple[OutcomeKind, ...]] = get_args(OutcomeKind)


class Content(NamedTuple):
    """Scores and numbers of words of one event, for the drift metrics.

    Args:
        scores: of its tags that are no person's, a byte each, in tenths rounded down; None: it did not ask for tags.
        words: of its caption; None: it has none.
        results: words of the result of each added role, by name.
    """

    scores: bytes | None
    words: int | None
    results: Mapping[str, int] = {}


class Document(NamedTuple):
    """An outcome before it is written: an EnrichedImage, a Retraction or a Skip, which `read_output` reads.

    Args:
        kind: what it is counted as once it is committed.
        version: of an EnrichedImage or a Retraction.
        tombstone: of a Retraction, whether a record of null value follows it.
        stored: of an EnrichedImage, the headers that a message may lack (`schemas.stored_scores`).
    """

    kind: OutcomeKind
    key: bytes
    value: bytes
    reason: str = ""
    content: Content | None = None
    version: int | None = None
    tombstone: bool = False
    stored: Headers = ()


Outcome: TypeAlias = Document | Failure
"""What becomes of one job. A partial image has two: its Document and the Failure of its caption."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """Messages to publish with the offsets to commit, all or nothing.

    Offsets mean "next to read".

    Under at_least_once no transaction of Kafka's is around them: the messages come first, then the offsets.
    """

    messages: Sequence[Message]
    offsets: Mapping[Assignment, int]

    def __repr__(self) -> str:
        return f"<Transaction of {self}>"

    def __str__(self) -> str:
        """The number of messages and each partition's committed offset, as `topic:partition:offset`."""
        ends = ", ".join(f"{assignment.partition}:{offset}" for assignment, offset in self.offsets.items())
        return f"{len(self.messages)} messages up to {ends}"
