"""Facts of pictures on a real PostgreSQL: columns, and the order by the day when they were taken."""

from datetime import datetime

import pytest

from index.tests.support import FACTS, THUMBHASH, enriched, picture, retraction, written
from tagstream_index import Query, search
from tagstream_index.database import Connection
from tagstream_index.page.finding import Result
from tagstream_index.page.typed import read
from tagstream_index.searching import searching

pytestmark = pytest.mark.servers


@pytest.fixture
def dated(tables: Connection) -> Connection:
    """Images whose days, newest first, are those of their numbers."""
    written(
        tables,
        picture("2", taken_at="2026-01-31T23:59:59-11:00", day=31),
        picture("4", taken_at="2025-12-31T23:00:00"),
        picture("1", taken_at="2026-02-01T00:00:00+14:00", day=31),
        picture("3", taken_at="2026-02-01T00:00:01", day=30),  # later than a day after it was stored
        picture("5", taken_at="1826-01-01T00:00:00Z", day=31),
    )
    return tables


def test_images_are_ordered_by_their_day_as_written(dated: Connection) -> None:
    found = search(Query(sort="day"), dated)
    assert [each.key for each in found] == ["1", "2", "3", "4", "5"]
    assert [each.key for each in found if not each.by_taken] == ["3"]
    assert found[2].dated == datetime(2026, 1, 30)  # noqa: DTZ001
    documents = [each.document() for each in found]
    assert [each["taken_at"] for each in documents][:3] == [
        "2026-02-01T00:00:00+14:00", "2026-01-31T23:59:59-11:00", "2026-02-01T00:00:01",
    ]  # fmt: skip
    assert not documents[0].keys() & {"dated", "thumbhash", "taken_local"}
    with searching(dated) as searcher:
        result = Result(searcher, read("").query())
        first, rest = result.part(2), result.part(9, after=result.place_of(result.cursor(found[1])))
        back = result.part(2, before=result.place(found[2]))
    assert [each.key for each in (*first.found, *rest.found)] == ["1", "2", "3", "4", "5"]
    assert back.found == first.found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("taken:2026-01", "23"),
        ("taken:2026", "123"),
        ("taken:2025-12", "4"),
        ("taken:2025-12-31", "4"),
        ("taken>2026-01", "1"),
        ("taken>=2026-01", "123"),
        ("taken<2026-01", "45"),
        ("taken<=2026-01 taken>1826", "234"),
        ("-taken:2026", "45"),
        ("since:2026-01-31", "125"),
        ("before:2026-01-02", "4"),
    ],
)
def test_a_typed_day_is_the_local_one_and_a_typed_time_is_when_it_was_stored(
    dated: Connection, text: str, expected: str
) -> None:
    assert "".join(each.key for each in search(read(text).query(), dated)) == expected


def test_facts_are_columns_and_go_with_the_image(tables: Connection) -> None:
    written(tables, enriched("a").with_facts(**FACTS), enriched("b"))
    columns = "taken_local::text, taken_offset, orientation, phash, thumbhash, latitude, longitude"
    rows = tables.execute(f"select {columns} from image order by key".encode()).fetchall()
    assert rows == [("2025-06-01 10:00:00", -210, 6, -2, THUMBHASH, -33.5, 151.25), (None,) * 7]
    with searching(tables) as searcher:
        assert [each.thumbhash for each in searcher.search(Query(), 2, 0)] == [None, THUMBHASH]
    written(tables, retraction("a", 2))
    assert tables.execute(f"select dated, {columns} from image where gone".encode()).fetchall() == [(None,) * 8]
