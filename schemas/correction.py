"""People's corrections of an image's tags, and their sum.

Corrections are increments: a reader reads the topic from its beginning, and the latest correction of each tag name
counts. So the topic must not be compacted (`cleanup.policy=delete` with an endless retention). A record without a value
withdraws all corrections of its subject. The record key is the subject, so that the corrections of one image keep their
order.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, NamedTuple, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .printable import printable
from .text import BY_MAX, Bucket, Key, Moment, Short, TagName, first_fault, subject
from .version import microseconds

MAX_BYTES: Final = 256 * 1024
"""Largest value of a record; a larger one is no correction."""
MAX_NAMES: Final = 200
"""Different names that may be said of one image in all; a record with one more is no correction. Each outcome of the
image has all of them."""
_STATEMENT_BYTES: Final = 330
_SUBJECT_BYTES: Final = 400
_BY_BYTES: Final = 80
"""Memory of a correction, a subject and a name without their own characters, measured with CPython 3.11."""


TagNames: TypeAlias = Annotated[tuple[TagName, ...], Field(max_length=1_000, fail_fast=True)]
Sha256: TypeAlias = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Correction(BaseModel):
    """A person's word on the tags of one image. Fields that are not named here are ignored."""

    model_config = ConfigDict(frozen=True, serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    schema_name: Literal["image-correction/1"] = Field(alias="schema")
    bucket: Bucket
    key: Key
    added: TagNames = Field(default=(), description="Names of tags that the image has.")
    removed: TagNames = Field(default=(), description="Names of tags that it does not have.")
    sha256: Sha256 | None = Field(
        default=None,
        description="The content that the person saw; null: the correction holds for any content of this key.",
    )
    etag: Short | None = Field(
        default=None,
        description="With `sha256`: ETag of the object. It holds for this content, whichever rendition is read.",
    )
    model: Sha256 | None = Field(default=None, description="Digest of the tagger that gave the corrected tags.")
    by: Short | None = Field(default=None, description="Who corrected the image.")
    at: Moment | None = Field(default=None, description="When the image was corrected.")

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if not self.added and not self.removed:
            raise ValueError("neither a tag that the image has nor one that it has not")
        if both := set(self.added) & set(self.removed):
            raise ValueError(f"{min(both)!r} is both added and removed")
        if len({*self.added, *self.removed}) > MAX_NAMES:
            raise ValueError(f"more than {MAX_NAMES} names of one image")
        return self

    @property
    def subject(self) -> str:
        """`bucket/key`, nothing escaped: the record's key."""
        return subject(self.bucket, self.key)


class CorrectionRecord(NamedTuple):
    """What to produce to the corrections topic, with any Kafka client."""

    key: bytes
    value: bytes | None


def correction(
    bucket: str,
    key: str,
    *,
    added: Collection[str] = (),
    removed: Collection[str] = (),
    sha256: str | None = None,
    etag: str | None = None,
    model: str | None = None,
    by: str | None = None,
    at: str | None = None,
) -> CorrectionRecord:
    """The record that corrects an image's tags: which it has and lacks.

    Args:
        sha256: of the content that the person saw, from the enriched event; None: any content of this key.
        etag: of the same object, from the enriched event; None: other renditions of this content are other content.
        model: digest of the tagger whose answer was corrected, from the enriched event.
        at: RFC 3339; None: now.

    Raises:
        ValueError: no such correction can be, with the reason.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    try:
        said = Correction.model_validate(
            {
                "schema": "image-correction/1",
                "bucket": bucket,
                "key": key,
                "added": tuple(added),
                "removed": tuple(removed),
                "sha256": sha256,
                "etag": etag,
                "model": model,
                "by": by,
                "at": at or now,
            }
        )
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None
    document = said.model_dump(mode="json", exclude_defaults=True)
    value = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    if len(value) > MAX_BYTES:
        raise ValueError(f"{len(value):,} bytes, and a correction has at most {MAX_BYTES:,}")
    return CorrectionRecord(said.subject.encode(), value)


def withdrawal(bucket: str, key: str) -> CorrectionRecord:
    """The record that withdraws all corrections of an image."""
    return CorrectionRecord(subject(bucket, key).encode(), None)


def read_correction(value: bytes) -> Correction:
    """
    Raises:
        ValueError: it is none; the text says why and holds nothing of the record.
    """
    if len(value) > MAX_BYTES:
        raise ValueError(f"{len(value):,} bytes, and a correction has at most {MAX_BYTES:,}")
    try:
        return Correction.model_validate_json(value)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None


class Word(NamedTuple):
    """The corrections of one image: added and removed tag names, and who said so."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    by: tuple[str, ...] = ()


class _Statement(NamedTuple):
    present: bool
    sha256: str | None
    by: str
    etag: str
    at: int

    def holds(self, sha256: str, etag: str, since: int | None) -> bool:
        """Whether it is of this content; see `Corrections.on`."""
        if self.sha256 in (None, sha256):
            return True
        return self.etag == etag if self.etag else since is not None and self.at >= since


class Corrections:
    """All corrections up to now, by subject. One thread takes records; any may look.

    Args:
        people: whether it remembers who made them.
    """

    def __init__(self, *, people: bool = False) -> None:
        self._people = people
        self._said: dict[str, dict[str, _Statement]] = {}
        self.bytes = 0
        """An estimate of the memory that it holds."""

    def __len__(self) -> int:
        """Subjects."""
        return len(self._said)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._said))

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """Add one record of the topic; later records go before earlier ones.

        Raises:
            ValueError: it is no correction, and nothing changed.
        """
        if value is None:
            self._withdraw((key or b"").decode(errors="replace"))
            return
        said = read_correction(value)
        found = self._said.get(said.subject, {})
        by = printable(said.by or "").strip() if self._people else ""
        seen = (said.sha256, by, said.etag or "", microseconds(said.at) or 0)
        new = dict.fromkeys(said.added, _Statement(True, *seen))
        new |= dict.fromkeys(said.removed, _Statement(False, *seen))
        words = found | new
        if len(words) > MAX_NAMES:
            raise ValueError(f"more than {MAX_NAMES} names of one image")
        self.bytes += self._cost("" if found else said.subject, new)
        self.bytes -= self._cost("", {name: found[name] for name in new if name in found})
        self._said[said.subject] = words

    def on(self, subject: str, sha256: str, etag: str = "", since: str | None = None) -> Word | None:
        """The corrections of this content, names in alphabetical order; None without any.

        Args:
            sha256: of the bytes that were read.
            etag: of the object.
            since: if a rendition was read, when the object was modified. A correction of later counts for it, unless
                that names another etag: its hash may be that of the object, or of another rendition.
        """
        told = self._said.get(subject)
        if told is None:
            return None
        limit = microseconds(since)
        found = {name: each for name, each in told.items() if each.holds(sha256, etag, limit)}
        holding = sorted((name, each.present) for name, each in found.items())
        if not holding:
            return None
        people = sorted({each.by for each in found.values() if each.by})
        return Word(
            tuple(name for name, present in holding if present),
            tuple(name for name, present in holding if not present),
            tuple(people[:BY_MAX]),
        )

    def _withdraw(self, subject: str) -> None:
        found = self._said.pop(subject, None)
        if found is not None:
            self.bytes -= self._cost(subject, found)

    @staticmethod
    def _cost(subject: str, words: Mapping[str, _Statement]) -> int:
        of_subject = _SUBJECT_BYTES + 4 * len(subject) if subject else 0
        names = sum(_STATEMENT_BYTES + 4 * len(name) + 4 * len(each.etag) for name, each in words.items())
        return of_subject + names + sum(_BY_BYTES + 4 * len(each.by) for each in words.values() if each.by)
