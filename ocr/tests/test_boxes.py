"""Quadrilaterals of text in the detector's map, lines out of them, and the order in which they are read."""

import time

import numpy as np
import pytest

from tagstream_ocr.boxes import reading_order, text_boxes, whole_lines


def turned_bar(centre: tuple[int, int], length: int, height: int, degrees: float) -> np.ndarray:
    """A map of 960 × 960 with a bar that goes down to the right for positive degrees."""
    ys, xs = np.mgrid[:960, :960]
    along = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    ahead = (xs - centre[0]) * along[0] + (ys - centre[1]) * along[1]
    aside = (ys - centre[1]) * along[0] - (xs - centre[0]) * along[1]
    bar: np.ndarray = ((abs(ahead) <= length / 2) & (abs(aside) <= height / 2)).astype(np.float32)
    return bar


@pytest.mark.parametrize("degrees", [0, 7, 30, -44, 44])
def test_a_bar_is_one_rectangle_around_it_upper_left_corner_first(degrees: float) -> None:
    (quad,) = text_boxes(turned_bar((400, 500), 300, 20, degrees))
    grown = 300 * 20 * 1.6 / (2 * 320)
    half = np.array([(-150, -10), (150, -10), (150, 10), (-150, 10)]) + grown * np.array(
        [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    )
    angle = np.radians(degrees)
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    assert np.abs(quad - (half @ turn + (400, 500))).max() < 3.5


def test_a_standing_bar_begins_at_its_upper_left_corner() -> None:
    (quad,) = text_boxes(turned_bar((100, 400), 20, 300, 0))
    assert quad[0].tolist() == quad.min(0).tolist()
    assert quad[1, 0] > quad[0, 0]
    assert quad[1, 1] == quad[0, 1]


def test_arms_that_meet_far_below_are_one_region() -> None:
    found = np.zeros((96, 96), np.float32)
    found[10:60, 10:20] = found[10:60, 70:80] = found[60:64, 10:80] = 1
    found[10:60, 20:70] = 0.29
    assert not len(text_boxes(found)), "the region's mean over its rectangle is below 0.5"
    found[10:60, 30:60] = 1
    assert len(text_boxes(found)) == 1


def test_pixels_that_touch_by_a_corner_belong_together() -> None:
    found = np.zeros((64, 128), np.float32)
    found[8:20, 8:100] = found[21:26, 101:106] = 1
    assert len(text_boxes(found)) == 1
    assert len(text_boxes(found[:, ::-1])) == 1
    found[20:] = 0
    found[22:27, 102:107] = 1
    assert len(text_boxes(found)) == 2


@pytest.mark.parametrize("left_out", [np.zeros((32, 64)), np.full((32, 64), 0.3), np.full((32, 64), np.nan)])
def test_a_map_without_text_has_no_rectangle(left_out: np.ndarray) -> None:
    assert text_boxes(left_out.astype(np.float32)).shape == (0, 4, 2)


def test_a_thin_region_and_an_unsure_one_are_left_out() -> None:
    found = np.zeros((96, 96), np.float32)
    found[10:12, 10:80] = 1
    found[40:60, 10:80] = 0.45
    assert not len(text_boxes(found))
    found[40:60, 10:80] = 0.6
    assert len(text_boxes(found)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("shown", ["noise", "columns of pixels", "slanted stripes", "dots"])
def test_the_worst_maps_take_below_two_seconds_of_a_core(shown: str) -> None:
    ys, xs = np.mgrid[:960, :960]
    maps = {
        "noise": np.random.default_rng(1).random((960, 960)),
        "columns of pixels": (xs % 6 < 4) * 1.0,
        "slanted stripes": ((xs + 2 * ys) % 12 < 6) * 1.0,
        "dots": ((xs % 8 < 5) & (ys % 8 < 5)) * 1.0,
    }
    begun = time.process_time()
    found = text_boxes(maps[shown].astype(np.float32))
    assert time.process_time() - begun < 2
    assert len(found) <= 1_000


def box(left: float, top: float, length: float = 200, height: float = 20) -> list[tuple[float, float]]:
    return [(left, top), (left + length, top), (left + length, top + height), (left, top + height)]


def turned(quads: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    points: np.ndarray = quads @ np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    return points


COLUMNS = [box(left, top) for left in (0, 230, 460) for top in range(40, 240, 25)]
TITLE, FOOT = box(0, 0, 660), box(100, 260, 500)
PAGES = {
    "three columns": COLUMNS,
    "columns whose boxes overlap": [box(195 * column, 25 * row) for column in range(3) for row in range(8)],
    "a title above, a line below": [TITLE, *COLUMNS, FOOT],
    "columns, a line between, columns": [*COLUMNS, FOOT, *(box(left, top) for left in (0, 350) for top in (300, 330))],
    "one column of short and long lines": [box(0, 25 * row, 100 + 70 * (row % 3)) for row in range(9)],
    "two pieces of the first row": [box(0, 0, 100), box(200, 0, 100), box(0, 30, 300)],
}


@pytest.mark.parametrize("degrees", [0, 4, -90, 90, 180])
@pytest.mark.parametrize("name", PAGES)
def test_columns_are_read_one_after_the_other(name: str, degrees: float) -> None:
    quads = np.array(PAGES[name], float)
    shuffled = np.random.default_rng(3).permutation(len(quads))
    order = reading_order(turned(quads[shuffled], degrees))
    assert shuffled[order].tolist() == list(range(len(quads)))


def test_a_circle_of_lines_is_read_whole() -> None:
    rng = np.random.default_rng(5)
    quads = np.array([box(*rng.uniform(0, 300, 2), *rng.uniform(5, 200, 2)) for _ in range(60)])
    assert sorted(reading_order(quads)) == list(range(60))


def test_no_line_has_no_order() -> None:
    assert reading_order(np.empty((0, 4, 2))) == []
    assert whole_lines(np.empty((0, 4, 2))).shape == (0, 4, 2)


@pytest.mark.parametrize("degrees", [0, 30, 180, 270])
def test_letters_of_a_sign_are_one_line(degrees: float) -> None:
    letters = turned(np.array([box(110 * place, 5 * (place % 2), 90, 150) for place in range(4)], float), degrees)
    (line,) = whole_lines(letters)
    assert np.abs(line - turned(np.array(box(0, 0, 420, 155), float), degrees)).max() < 1e-6


@pytest.mark.parametrize(
    "other",
    [
        box(212, 0),  # farther away than half of the height
        box(205, 12),  # a line lower
        box(205, -9, 200, 38),  # of larger letters
        [*box(205, 0)[2:], *box(205, 0)[:2]],  # upside down
    ],
)
def test_other_lines_stay_apart(other: list[tuple[float, float]]) -> None:
    assert len(whole_lines(np.array([box(0, 0), box(205, 0)]))) == 1
    assert len(whole_lines(np.array([box(0, 0), other]))) == 2
