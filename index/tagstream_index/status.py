"""The numbers of `tagstream index status`: lag, rows, age, last error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from schemas.printable import counted
from tagstream_index import left_out
from tagstream_index.database import Connection, readable
from tagstream_index.merge import MOST_SPACES
from workers.backends.kafka import Extent
from workers.types import Partition

_PROGRESS = f"""
select partition, next_offset, case when {readable("record_at")} then record_at end, written_at
from progress where topic = %s
""".encode()
COUNTS = "select count(*) filter (where not gone), count(*) filter (where gone) from image"
_STATE = "select language::text, last_error, last_error_at, results from state"


def read_status(connection: Connection, topic: str, ends: Mapping[Partition, Extent]) -> dict[str, Any]:
    """The status as JSON values."""
    progress = {number: rest for number, *rest in connection.execute(_PROGRESS, (topic,))}
    images, gone = connection.execute(COUNTS).fetchone() or (0, 0)
    language, error, error_at, results = connection.execute(_STATE).fetchone() or ("", None, None, [])
    partitions = []
    for place, extent in sorted(ends.items()):
        offset, record_at, written_at = progress.get(place.number, (None, None, None))
        partitions.append(
            {
                "partition": place.number,
                "next_offset": offset,
                "lag": max(0, extent.end - (extent.begin if offset is None else offset)),
                "record_at": _moment(record_at),
                "written_at": _moment(written_at),
            }
        )
    newest = max((record_at for _, record_at, _ in progress.values() if record_at is not None), default=None)
    return {
        "lag": sum(each["lag"] for each in partitions),
        "images": images,
        "gone": gone,
        "age_s": None if newest is None else round((datetime.now(UTC) - newest).total_seconds(), 1),
        "language": language,
        "last_error": error,
        "last_error_at": _moment(error_at),
        "results": results,
        "spaces": _spaces(connection),
        "left_out": left_out.told(connection, topic),
        "partitions": partitions,
    }


def lines(status: Mapping[str, Any]) -> Iterator[str]:
    """The status for people."""
    images, gone = counted(status["images"], "image"), counted(status["gone"], "removed one")
    yield f"{images}, {gone} remembered; text search: {status['language']}"
    yield f"lag: {counted(status['lag'], 'offset')} in {counted(len(status['partitions']), 'partition')}"
    age = status["age_s"]
    yield "newest record: none" if age is None else f"newest record: appended {age:,.0f} s ago"
    if status["last_error"] is not None:
        yield f"last error, {status['last_error_at']}: {status['last_error']}"
    if status["results"]:
        yield f"results: {', '.join(status['results'])}"
    for each in status["spaces"]:
        yield f"vectors of {each['space']}, {each['dimensions']:,} dimensions: {counted(each['images'], 'image')}"
    if len(status["spaces"]) >= MOST_SPACES:
        yield (
            f"vectors of other spaces are left out: {MOST_SPACES} are kept. One that no image has makes room after an "
            "hour: `tagstream forget` the images of a space that should go, later `tagstream index rebuild`"
        )
    yield from left_out.lines(status["left_out"])


def _spaces(connection: Connection) -> list[dict[str, Any]]:
    """Each space of vectors with its number of images."""
    known = connection.execute("select name, dimensions, number from space order by number").fetchall()
    found = []
    for name, dimensions, number in known:
        ((images,),) = connection.execute(f"select count(*) from embedding_{number}".encode()).fetchall()
        found.append({"space": name, "dimensions": dimensions, "images": images})
    return found


def _moment(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
