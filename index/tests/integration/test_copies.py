"""Copies and times of pictures on a real PostgreSQL: all near ones are found, and no flood holds a request."""

import json
import random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from index.tests.support import picture, retraction, written
from tagstream_index import Query, copies, grouping, search
from tagstream_index.copies import count_copies, months
from tagstream_index.database import Connection
from tagstream_index.page.typed import read
from tagstream_index.searching import searching
from tests.support.command import Tagstream
from workers.cli.app import run_command
from workers.errors import MISCONFIGURED

pytestmark = pytest.mark.servers

HASH = 0x9F0312345678ABCD


def flipped(hash_: int, *bits: int) -> int:
    return hash_ ^ sum(1 << bit for bit in bits)


def of(tables: Connection, key: str) -> list[tuple[str, int | None]]:
    with searching(tables) as searcher:
        found = copies.copies_of(searcher, f"photos/{key}")
    return [(each.image.key, each.bits) for each in found or ()]


def counts(tables: Connection, *keys: str) -> dict[str, int]:
    with searching(tables) as searcher:
        return count_copies(searcher, [f"photos/{key}" for key in keys])


def test_equal_contents_come_first_then_the_nearest_and_of_these_the_largest(tables: Connection) -> None:
    written(
        tables,
        picture("own", HASH, content="same"),
        picture("equal", content="same"),
        picture("near", flipped(HASH, 0, 63), size=50),
        picture("near-large", flipped(HASH, 17, 40), size=60),
        picture("like", HASH),
        picture("limit", flipped(HASH, 0, 1, 2, 20, 40, 60)),
        picture("far", flipped(HASH, 0, 1, 2, 20, 40, 60, 61)),
        picture("gone", HASH, content="same"),
        retraction("gone", 2),
    )
    found = [("equal", None), ("like", 0), ("near-large", 2), ("near", 2), ("limit", 6)]
    assert of(tables, "own") == found
    assert of(tables, "equal") == [("own", None)], "an older outcome has no hash"
    assert counts(tables, "own", "equal", "gone", "absent") == {"photos/own": 5, "photos/equal": 1}
    with searching(tables) as searcher:
        assert copies.copies_of(searcher, "photos/gone") is None


def groups(tables: Connection) -> list[dict[str, Any]]:
    with tables.transaction():
        return list(grouping.documents(tables, grouping.groups(tables)))


@pytest.fixture
def many(tables: Connection) -> dict[str, int | None]:
    """Images in clusters of near hashes, some at the limit of nearness, some without a hash."""
    chance = random.Random(3)
    centres, hashes = [chance.getrandbits(64) for _ in range(100)], dict[str, int | None]()
    for number in range(400):
        bits = chance.sample(range(64), chance.choice([0, 1, 3, 5, 6, 7, 9]))
        hashes[f"{number:03d}"] = None if number % 50 == 0 else flipped(centres[number // 4], *bits)
    written(tables, *(picture(key, phash) for key, phash in hashes.items()))
    tables.execute("analyze image")
    return hashes


def near(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and (one ^ other).bit_count() <= 6


def test_every_near_image_is_found_by_the_indexes_and_no_other(tables: Connection, many: dict[str, int | None]) -> None:
    tables.execute("set enable_seqscan = off; set enable_bitmapscan = off")
    expected = {key: {other for other in many if other != key and near(many[key], many[other])} for key in many}
    assert max(map(len, expected.values())) > 1
    assert {key: {name for name, _ in of(tables, key)} for key in many} == expected
    assert counts(tables, *many) == {f"photos/{key}": len(found) for key, found in expected.items()}
    plan = str(tables.execute(f"explain {copies._near('1::bigint', 'n.phash')}".encode()).fetchall())
    assert [plan.count(f"Index Only Scan using image_band_{number}") for number in range(4)] == [1] * 4


@pytest.mark.parametrize(
    ("phash", "sha256"), [("0", "sha256"), ("0", "md5(n::text)"), ("n::bigint << 30", "md5(n::text)")]
)
def test_a_flood_of_alike_images_is_cut(tables: Connection, phash: str, sha256: str) -> None:
    written(tables, picture("first", 0))
    columns = ["bucket", "version", "published", "produced_at", "gone", "last_modified", "format", "width", "height"]
    shown = ", ".join([*columns, "bytes", "names", "scores", "tags", "provenance"])
    tables.execute(
        f"insert into image (subject, key, phash, sha256, {shown}) select 'photos/' || n, n, {phash}, {sha256}, {shown}"
        f" from image, generate_series(1, 20000) n; analyze image".encode()
    )
    assert len(of(tables, "first")) == copies.MOST_COPIES
    assert counts(tables, "first") == {"photos/first": copies.MOST_COUNTED}
    (flood,) = (told for told in groups(tables) if told["images"] > 2_000)
    assert flood["freed_bytes"] == (flood["images"] - 1) * 1_000


def test_counts_that_take_too_long_are_left_out_and_the_connection_serves_on(
    tables: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tables, picture("a", HASH))
    monkeypatch.setattr(copies, "_COUNTS", "select 'a', 1 from pg_sleep(60)")
    monkeypatch.setattr(copies, "_TRIED_S", 0.1)
    with searching(tables) as searcher:
        assert count_copies(searcher, ["photos/a"]) == {}
        limit = searcher.execute("show statement_timeout").fetchone()
        assert (limit, months(searcher, Query())) == (("2s",), [("2026-01", 1)])


def test_a_flood_of_unlike_hashes_with_the_same_first_bits_is_compared_for_a_bounded_time(
    tables: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "_COMPARED", 1_000)
    compared, bitwise_count = 0, np.bitwise_count

    def counted(hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
        nonlocal compared
        compared += len(hashes)
        return bitwise_count(hashes)

    monkeypatch.setattr(np, "bitwise_count", counted)
    chosen = random.Random(1)
    other = ~HASH & (1 << 64) - 1
    hashes = {f"crafted-{number}": HASH ^ chosen.getrandbits(32) for number in range(600)}
    written(
        tables,
        picture("first", other),
        picture("second", flipped(other, 3)),
        *map(picture, *zip(*hashes.items(), strict=True)),
    )
    assert "photos/first" in [told["keep"]["subject"] for told in groups(tables)]
    assert compared < len(grouping.MASKS) * 1_602


def test_groups_are_the_connected_ones_and_no_others(
    tables: Connection, many: dict[str, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "_PAIRS", 3)
    monkeypatch.setattr(grouping, "_FETCHED", 10)
    rest, expected = set(many), []
    while rest:
        group, new = set[str](), {rest.pop()}
        while new:
            group |= new
            new = {key for key in rest if any(near(many[key], many[each]) for each in new)}
            rest -= new
        expected += [group] if len(group) > 1 else []
    found = [[each["subject"][7:] for each in (told["keep"], *told["copies"])] for told in groups(tables)]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
    assert [*map(len, found)] == sorted(map(len, found), reverse=True)


@pytest.fixture
def three(tables: Connection) -> list[str]:
    """Three copies, the one to keep first, and another picture."""
    written(
        tables,
        picture("small", HASH, size=90),
        picture("large", flipped(HASH, 3), content="same", day=3),
        picture("large-old", flipped(HASH, 3), content="same", day=2),
        picture("other", ~HASH % 2**64),
    )
    return ["photos/large-old", "photos/large", "photos/small"]


def test_the_largest_and_then_the_oldest_is_to_be_kept_and_nothing_is_deleted(
    tables: Connection, three: list[str], tagstream: Tagstream
) -> None:
    (told,) = map(json.loads, tagstream("index", "copies", "--json").done.splitlines())
    assert [each["subject"] for each in (told["keep"], *told["copies"])] == three
    assert (told["images"], told["freed_bytes"]) == (3, 1_900)
    assert told["keep"]["sha256"] == told["copies"][0]["sha256"]
    out = tagstream("index", "copies").done
    assert all(subject in out for subject in three)
    assert "1 group of 3 images" in out
    assert len(search(Query(), tables)) == 4


def test_the_command_finds_copies_of_one_image(tables: Connection, three: list[str], tagstream: Tagstream) -> None:
    large, old, small = three
    equal, near = map(json.loads, tagstream("search", "--copies-of", old, "--json").done.splitlines())
    assert (equal["subject"], equal["equal"], near["subject"], near["hash_distance"]) == (large, True, small, 1)
    out = tagstream("search", "--copies-of", old, "--limit", "1").done
    assert large in out
    assert small not in out
    assert tagstream("search", "--copies-of", "photos/other").done == ""
    for line in (["photos/absent"], [old, "dog"], [old, "--offset", "1"]):
        assert run_command(["search", "--copies-of", *line]) == MISCONFIGURED


def test_months_are_counted_as_their_filters_find_them(tables: Connection) -> None:
    taken = {"1": "2026-02-01T00:00:00+14:00", "2": "2026-01-31T23:59:59-11:00", "4": "2025-12-31T23:00:00"}
    written(tables, *(picture(key, day=31, taken_at=at) for key, at in taken.items()), picture("3", day=30))
    with searching(tables) as searcher:
        assert months(searcher, Query()) == [("2026-02", 1), ("2026-01", 2), ("2025-12", 1)]
        assert months(searcher, read("taken>2025").query()) == [("2026-02", 1), ("2026-01", 2)]
        days = months(searcher, read("taken:2026-01").query())
        assert days == [("2026-01-31", 1), ("2026-01-30", 1)]
        assert months(searcher, Query(), ["photos/4"]) == [("2025-12", 1)]
        for month, count in months(searcher, Query()):
            assert len(searcher.search(read(f"taken:{month}").query(), 10, 0)) == count
