"""The rule of the number that orders what is said of one object."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.enriched_image import EnrichedImage, EventRef, Retraction
from schemas.version import AHEAD_MAX_US, VERSION_MAX, order, version_of
from tests.unit.schemas.documents import EVENT, enriched, retraction

NOW_S = 1_800_000_000.0
NOW = 1_800_000_000_000_000
SECOND = 1_000_000


def at(seconds: float) -> str:
    """So many seconds after now."""
    return datetime.fromtimestamp(NOW_S + seconds, UTC).isoformat(timespec="milliseconds")


def version(time: str | None = None, timestamp_ms: int = 0, **answer: Any) -> int:
    return version_of(time, timestamp_ms=timestamp_ms, now_s=NOW_S, **answer)


@pytest.mark.parametrize(
    ("time", "modified", "date", "expected"),
    [
        (-10, -20, None, -10),
        (-20, -10, None, -10),
        (-20, -10, -5, -5),
        (-5, -20, -6, -5),
        (-20, None, -7, -7),
        (-20, None, None, -20),
        (None, -9, None, -9),
        (-20, 100, -10, -10),  # modified counts up to the date
        (300, -20, -10, 300),
        (301, -20, -10, -10),  # too far ahead
        (301, -20, None, -20),
        (-20, 301, None, -20),
        (900, -20, 1000, 1000),  # our clock is the one that is wrong
        (1300, -20, 1000, 1300),
        (1301, -20, 1000, 1000),
    ],
)
def test_it_is_the_latest_moment_at_which_the_state_is_known_to_have_held(
    time: float | None, modified: float | None, date: float | None, expected: float
) -> None:
    said = [None if each is None else at(each) for each in (time, modified, date)]
    assert version(said[0], last_modified=said[1], date=said[2]) == NOW + expected * SECOND


@pytest.mark.parametrize(
    ("timestamp_ms", "expected"), [(NOW // 1000 - 7, NOW - 7000), (NOW // 1000 + 7, NOW), (-1, 0), (2**63 - 1, NOW)]
)
@pytest.mark.parametrize("time", [None, at(301), "1969-12-31T23:59:59Z", "2026-06-30T23:59:60Z", "yesterday"])
def test_where_no_moment_is_known_it_is_the_records_time_and_at_most_now(
    time: str | None, timestamp_ms: int, expected: int
) -> None:
    assert version(time, timestamp_ms) == expected


def test_fractions_of_a_second_and_offsets_count() -> None:
    assert version("2026-11-24T23:46:32.646123999Z") % SECOND == 646_123
    assert version("2026-11-25T00:46:32.5+01:00") == version("2026-11-24T23:46:32.500Z")


anything = st.none() | st.datetimes(timezones=st.timezones()).map(datetime.isoformat) | st.text(max_size=30)


@given(anything, anything, anything, st.integers(-(2**63), 2**63 - 1), st.floats(-1e9, 1e13))
def test_it_is_a_number_that_any_reader_can_hold(
    time: str | None, modified: str | None, date: str | None, timestamp_ms: int, now_s: float
) -> None:
    found = version_of(time, last_modified=modified, date=date, timestamp_ms=timestamp_ms, now_s=now_s)
    assert 0 <= found <= VERSION_MAX < 2**53
    assert AHEAD_MAX_US == 300 * SECOND


def _in_order(*outputs: EnrichedImage | Retraction) -> None:
    for some in permutations(outputs):
        assert sorted(some, key=order) == list(outputs)


def _image(version: int | None, produced_at: str = "2026-01-01T00:00:00Z") -> EnrichedImage:
    return enriched(version=version, produced_at=produced_at)


def _gone(version: int | None, produced_at: str = "2026-01-01T00:00:00Z", time: str | None = None) -> Retraction:
    event = EventRef.model_validate(EVENT.model_dump() | {"time": time})
    return retraction(version=version, produced_at=produced_at, event=event)


def test_the_version_alone_orders_outputs_and_a_tie_is_the_later_opinion_then_the_retraction() -> None:
    _in_order(_image(4), _gone(5), _image(6))
    _in_order(_gone(5, "2026-01-01T00:00:00.1Z"), _image(5, "2026-01-01T01:00:00.2+01:00"))
    _in_order(_image(5), _gone(5))


def test_without_a_version_it_is_the_time_of_the_change_and_any_version_as_great_wins() -> None:
    modified = 1_795_563_992_000_000
    _in_order(_image(modified - 1), _image(None, "2030-01-01T00:00:00Z"), _image(modified))
    _in_order(_gone(None, time="2026-11-24T23:46:31Z"), _image(None), _gone(None, time="2026-11-24T23:46:33Z"))
    _in_order(_image(None), _gone(None, produced_at="2026-12-01T00:00:00Z"))
