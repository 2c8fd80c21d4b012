"""Results of added kinds as columns, rows and shapes: by their package, without it, and with any values."""

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from PIL import Image, ImageOps

from index.tests.support import Sign, enriched, results
from schemas.result_kinds import RESERVED
from tagstream_index.outcomes import Row
from tagstream_index.page.showing import drawn, read_frame, templates, turn, upright
from tagstream_index.page.typed import FILTERS
from tagstream_index.results import WORDS_CHARS, _log, rows_of
from tagstream_index.searching import Found
from tests.support.kinds import given_kinds

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LOCAL = NOW.replace(tzinfo=None)
TILE = Found(
    "photos/a", "photos", "a", None, "b" * 64, NOW, "jpeg", 4, 3, 9, [], [], None, LOCAL, None, None, None, None,
    "complete", False, None, None,
)  # fmt: skip


@pytest.fixture(autouse=True)
def sign() -> Iterator[None]:
    _log.cache_clear()
    with given_kinds(Sign):
        yield


def row(**values: Any) -> Row:
    return enriched("a.jpg").but(results=results(**values)).row()


def shapes(value: Any, orientation: int | None = 1, kind: str = "jpeg") -> str:
    tile = replace(TILE, orientation=orientation, format=kind)
    return re.sub(r"\s*\n\s*", "", drawn(templates(), tile, results(sign=value)))


def test_a_row_has_the_results_and_their_words_by_kind() -> None:
    found = row(sign={"text": "no\nexit\x07", "corners": []}, plate={"text": "AB 1"}, score={"value": 3})
    assert found.results == results(
        sign={"text": "no\nexit\x07", "corners": []}, plate={"text": "AB 1"}, score={"value": 3}
    )
    assert (found.result_words, found.flaws) == ("\x1eplate\x1eAB 1\x1esign\x1eno\nexit", ())
    without = enriched("a.jpg").row()
    assert (without.results, without.result_words) == (None, None)


@pytest.mark.parametrize("value", [{"text": 5}, {"text": ["a"]}, {"text": "a" + "-b" * 10_000}])
def test_a_result_that_cannot_be_read_keeps_its_json_and_loses_its_words(value: Any) -> None:
    found = row(sign=value, plate={"text": "AB 1"})
    assert found.results == results(sign=value, plate={"text": "AB 1"})
    assert found.result_words == "\x1eplate\x1eAB 1"
    assert found.flaws == (("results",) if isinstance(value["text"], str) else ())


def test_words_have_a_bound_together() -> None:
    found = row(sign={"text": "word " * 5_000}, plate={"text": "word " * 3_000})
    assert sum(map(len, (found.result_words or "").split("\x1e")[2::2])) == WORDS_CHARS


def test_a_picture_has_the_rows_of_its_kinds_and_of_unknown_ones_the_text(caplog: pytest.LogCaptureFixture) -> None:
    told = results(sign={"text": "exit"}, plate={"text": "AB 1"}, score={"value": 3})
    assert rows_of(told) == [("writing", "EXIT"), ("plate", "AB 1")]
    assert rows_of(results(sign={"text": 47110815}, plate={"text": "AB 1"})) == [("plate", "AB 1")]
    assert rows_of(results(sign={})) == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2, "one for each error"
    assert "47110815" not in caplog.text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_shapes_are_turned_as_the_picture_is(orientation: int) -> None:
    stored = Image.new("L", (4, 3))
    stored.putpixel((1, 2), 255)
    stored.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(stored)
    place = divmod(upright.tobytes().index(255), upright.width)[::-1]
    a, b, c, d, e, f = map(int, turn(replace(TILE, orientation=orientation)).split())
    assert (a * 1.5 + c * 2.5 + e, b * 1.5 + d * 2.5 + f) == (place[0] + 0.5, place[1] + 0.5)


def test_shapes_have_their_places_in_the_rendition_that_was_read() -> None:
    read = {"bucket": "photos-web", "key": "a.jpg", "width": 8, "height": 6}
    turned = replace(TILE, orientation=6, read={**read, "orientation": 1})
    assert (turn(turned), upright(read_frame(turned)), upright(turned)) == ("1 0 0 1 0 0", (8, 6), (3, 4))
    both = replace(TILE, orientation=6, read={**read, "orientation": 6})
    assert (turn(both), upright(read_frame(both))) == (turn(replace(TILE, orientation=6, width=8, height=6)), (6, 8))
    assert turn(replace(TILE, orientation=1, read=read)) == "", "its turn is unknown"


def test_shapes_are_escaped_and_none_are_drawn_where_the_turn_is_unknown() -> None:
    value = {"text": "</title><script>", "corners": [[1, '"><script>']]}
    assert (
        shapes(value)
        == '<circle cx="1" cy="&#34;&gt;&lt;script&gt;" r="9"><title>&lt;/title&gt;&lt;script&gt;</title></circle>'
    )
    assert (shapes(value, None), shapes(value, 1, "tiff")) == ("", "")


@pytest.mark.parametrize(
    "value", [{}, {"corners": 5}, {"corners": [[1]]}, {"text": "t" * 1_000, "corners": [[1, 2]] * 1_000}]
)
def test_a_template_that_fails_draws_nothing_and_is_logged_once(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert (shapes(value), shapes(value)) == ("", "")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_no_kind_has_the_name_of_a_filter() -> None:
    assert FILTERS.keys() <= RESERVED
