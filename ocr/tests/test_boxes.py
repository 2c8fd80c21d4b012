"""Quadrilaterals of text in the detector's map."""

import time

import numpy as np
import pytest

from tagstream_ocr.boxes import text_boxes


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
