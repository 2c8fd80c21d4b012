"""What `tagstream index status` tells: lag, rows, age, last error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tagstream_index.database import Connection
from workers.backends.kafka import Extent
from workers.types import Partition


class Progress(NamedTuple):
    """How far a partition is indexed.

    Args:
        record_at: when the last record that is in the tables was appended.
    """

    next_offset: int
    record_at: datetime | None
    written_at: datetime


class Status(NamedTuple):
    """The tables at one moment, compared with the ends of the topic.

    Args:
        lag: offsets that are not in the tables, by partition; None: the partition was not begun.
    """

    lag: Mapping[Partition, int | None]
    progress: Mapping[Partition, Progress]
    images: int
    gone: int
    language: str
    error: str | None
    error_at: datetime | None

    @property
    def waiting(self) -> int:
        """Offsets that are not in the tables."""
        return sum(lag or 0 for lag in self.lag.values())

    def age_s(self, now: datetime) -> float | None:
        """Seconds since the newest record in the tables was appended."""
        times = [each.record_at for each in self.progress.values() if each.record_at is not None]
        return (now - max(times)).total_seconds() if times else None


def read_status(connection: Connection, topic: str, ends: Mapping[Partition, Extent]) -> Status:
    """
    Args:
        ends: of every partition of the enriched topic.
    """
    told = connection.execute(
        "select partition, next_offset, record_at, written_at from progress where topic = %s", (topic,)
    )
    progress = {Partition(topic, number): Progress(*rest) for number, *rest in told}
    images, gone = connection.execute(
        "select count(*) filter (where not gone), count(*) filter (where gone) from image"
    ).fetchone() or (0, 0)
    language, error, error_at = connection.execute(
        "select language::text, last_error, last_error_at from state"
    ).fetchone() or ("", None, None)
    lag = {
        place: max(0, extent.end - progress[place].next_offset) if place in progress else extent.end - extent.begin
        for place, extent in ends.items()
    }
    return Status(lag, progress, images, gone, language, error, error_at)


def document(status: Status) -> dict[str, Any]:
    """The status as JSON."""
    age = status.age_s(datetime.now(UTC))
    return {
        "lag": status.waiting,
        "images": status.images,
        "gone": status.gone,
        "age_s": None if age is None else round(age, 1),
        "language": status.language,
        "last_error": status.error,
        "last_error_at": _moment(status.error_at),
        "partitions": [
            {
                "partition": place.number,
                "next_offset": found.next_offset if found else None,
                "lag": lag,
                "record_at": _moment(found.record_at if found else None),
                "written_at": _moment(found.written_at if found else None),
            }
            for place, lag in sorted(status.lag.items())
            for found in [status.progress.get(place)]
        ],
    }


def lines(status: Status) -> Iterator[str]:
    """The status for people."""
    age = status.age_s(datetime.now(UTC))
    yield f"{status.images:,} images, {status.gone:,} removed ones remembered; text search: {status.language}"
    yield f"lag: {status.waiting:,} offsets in {len(status.lag)} partitions"
    yield "newest record: none" if age is None else f"newest record: appended {age:,.0f} s ago"
    if status.error is not None:
        yield f"last error, {_moment(status.error_at)}: {status.error}"


def _moment(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
