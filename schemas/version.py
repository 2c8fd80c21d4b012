"""The number that orders the outcomes of an object: `version`, in microseconds since 1970 on the store's clock.

A state of an object holds from one change to the next, and its version is a moment in between. So the versions of
successive states ascend, however their outcomes are repeated, re-ordered, or replayed from dead letters.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from .enriched_image import EnrichedImage, Retraction
from .text import VERSION_MAX, Headers

VERSION_HEADER: Final = "tagstream-version"
AHEAD_MAX_US: Final = 300_000_000
"""Most time that an event may be in the future: clocks differ. A later one would silence its object until then."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def version_of(
    event_time: str | None,
    *,
    last_modified: str | None = None,
    date: str | None = None,
    timestamp_ms: int,
    now_s: float,
) -> int:
    """A moment on the store's clock when the published state held: the latest that is known to be one.

    Args:
        event_time: of the event; more than five minutes ahead it counts as absent.
        last_modified: of the object that was read. No answer shows an object of later than its `date`, so that counts
            in its place where it is known.
        date: of the store's answer that showed this state. None: it was not asked, or for an old version by its id,
            which proves nothing of what the object is now. Never our own time: a remembered state may be over.
        timestamp_ms: of the event's record, which serves where nothing else is known; at most now.
        now_s: our clock, in seconds since 1970.
    """
    now = _bounded(int(now_s * 1_000_000))
    answered = microseconds(date, VERSION_MAX)
    latest = _bounded(max(now, answered or 0) + AHEAD_MAX_US)
    shown = microseconds(last_modified, latest) if answered is None else answered
    moments = [each for each in (microseconds(event_time, latest), shown) if each is not None]
    return max(moments) if moments else min(_bounded(timestamp_ms * 1000), now)


def microseconds(moment: str | None, latest: int = VERSION_MAX) -> int | None:
    """An RFC 3339 time in microseconds since 1970; None: absent, before 1970, or after `latest`."""
    if moment is None:  # most events: an exception takes longer than all the rest
        return None
    try:
        value = (datetime.fromisoformat(moment) - _EPOCH) // _MICROSECOND
    except (ValueError, TypeError):
        return None
    return value if 0 <= value <= latest else None


def told_version(headers: Headers) -> int | None:
    """The version in a record's header; None: missing or no such number."""
    text = next((value or b"" for name, value in headers if name == VERSION_HEADER), b"")
    return int(text) if len(text) <= 16 and text.isdigit() and int(text) <= VERSION_MAX else None


class Order(NamedTuple):
    """Of two outputs with one `document_id` the greater is the newer."""

    version: int
    published: bool
    """Whether the output says its version; messages of before that field lose a tie."""
    produced_at: int
    gone: bool


def order(output: EnrichedImage | Retraction) -> Order:
    """How an output compares with others of its `document_id`."""
    return order_of(
        output.version,
        output.produced_at,
        last_modified=getattr(output.source, "last_modified", None),
        event_time=output.event.time,
        gone=output.schema_name == "image-retraction/1",
    )


def order_of(
    version: int | None, produced_at: str, *, last_modified: str | None, event_time: str | None, gone: bool
) -> Order:
    """As `order`, of an output's fields.

    Without a `version` the time at which the object was modified counts, or else the event's.
    """
    produced = microseconds(produced_at) or 0
    if version is not None:
        return Order(version, True, produced, gone)
    said = microseconds(last_modified) if last_modified is not None else microseconds(event_time)
    return Order(produced if said is None else said, False, produced, gone)


def _bounded(value: int) -> int:
    return max(0, min(value, VERSION_MAX))
