"""Decides which events of a record are worked on, skipped or refused; acts on nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeAlias

from schemas.dead_letter import Failure, only_indexes
from schemas.enriched_image import SkipReason
from schemas.image_event import BadEvent, Ignored, ImageEvent, parse_message
from schemas.options import Options, Want
from workers.pipeline.profiles import Profile
from workers.types import Coordinates, Record


@dataclass(frozen=True, slots=True)
class Wanted:
    """An event to enrich, with the profile that it names."""

    event: ImageEvent
    profile: Profile


@dataclass(frozen=True, slots=True)
class Removed:
    """An object that is gone by its bucket's word."""

    event: ImageEvent


@dataclass(frozen=True, slots=True)
class Skipped:
    """An event that is skipped, and why."""

    reason: SkipReason
    event: ImageEvent | None = None
    subject: str | None = None


Filtered: TypeAlias = Wanted | Removed | Skipped | Failure


@dataclass(frozen=True, slots=True)
class EventFilter:
    """The rules of a worker.

    Args:
        buckets: allowed names; empty allows all.
        key_globs: keys to work on; empty means all.
        profiles: by name, `default` among them.
        sample: share of the objects to work on.
        want: what an event gets that does not say, in the order of `Options`.
    """

    buckets: tuple[str, ...]
    key_globs: tuple[str, ...]
    profiles: Mapping[str, Profile]
    sample: float = 1.0
    want: tuple[Want, ...] = Options().want

    def read(self, record: Record) -> list[Filtered]:
        """One answer for each index of the record's message, in order; at least one."""
        if (why := record.unreadable) is not None:
            return [Failure(index=0, stage="parse", reason=why.reason, detail=why.detail)]
        parsed = parse_message(
            record.value,
            record.headers,
            topic=record.partition.topic,
            partition=record.partition.number,
            offset=record.offset,
        )
        only = only_indexes(record.headers)
        return [
            Skipped("not-replayed") if only is not None and index not in only else self._judge(item)
            for index, item in enumerate(parsed)
        ]

    def _judge(self, item: ImageEvent | Ignored | BadEvent) -> Filtered:
        if isinstance(item, BadEvent):
            return Failure(index=item.index, stage="parse", reason=item.reason, detail=item.detail)
        if isinstance(item, Ignored):
            return Skipped(item.reason, subject=item.subject)
        if self.buckets and item.bucket not in self.buckets:
            detail = f"bucket {item.bucket!r} is not in TAGSTREAM_BUCKETS"
            return Failure(index=item.index, stage="parse", reason="bucket-not-allowed", detail=detail)
        if self.key_globs and not any(fnmatchcase(item.key, glob) for glob in self.key_globs):
            return Skipped("key-not-matched", item)
        if self.sample < 1 and not sampled(item.subject, self.sample):
            return Skipped("not-sampled", item)
        if item.action == "retract":
            return Removed(item)
        profile = self.profiles.get(item.options.profile or "default")
        if profile is None:
            detail = f"there is no threshold profile {item.options.profile!r}"
            return Failure(index=item.index, stage="parse", reason="unknown-profile", detail=detail)
        return Wanted(self._resolved(item), profile)

    def _resolved(self, event: ImageEvent) -> ImageEvent:
        """The event with all that it wants."""
        options = event.options
        if options.want == self.want or "want" in options.model_fields_set:
            return event
        return replace(event, options=options.model_copy(update={"want": self.want}))


def sampled(subject: str, share: float) -> bool:
    """Whether an object belongs to this share of all; a larger share holds every smaller one."""
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8]) < share * 2**64


def coordinates(record: Record, index: int) -> Coordinates:
    return Coordinates(record.partition.topic, record.partition.number, record.offset, index)
