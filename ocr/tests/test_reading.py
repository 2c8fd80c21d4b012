"""From pixels to text, with networks that see bars: a bar's red is its text, and its bright end is its begin."""

from collections.abc import Sequence

import numpy as np
import pytest

from tagstream_ocr import WrittenText
from tagstream_ocr.reading import Networks, plain, read
from workers.types import ImageAbout, Pixels

SIDE = 960


class Bars:
    """Networks of their own: text is what isn't black."""

    def __init__(self, text: str = "line {}", score: float = 0.95) -> None:
        self.text, self.score = text, score
        self.seen: list[tuple[int, ...]] = []

    @property
    def networks(self) -> Networks:
        return Networks(self.detect, self.recognise, self.is_upside_down)

    def detect(self, pixels: Pixels) -> np.ndarray:
        self.seen.append(pixels.shape)
        seen: np.ndarray = (pixels.max(2) > 0).astype(np.float32)
        return seen

    def recognise(self, strips: Pixels) -> Sequence[tuple[str, float]]:
        self.seen.append(strips.shape)
        reds = strips[:, 24, 20:30, 0].mean(1)
        return [(self.text.format(round(red / 10)), self.score) for red in reds]

    def is_upside_down(self, strips: Pixels) -> Sequence[bool]:
        assert strips.shape[1:] == (48, 192, 3)
        return [bool(strip[24, 20:60, 1].mean() < strip[24, 130:170, 1].mean()) for strip in strips]


def picture(*bars: tuple[int, int, int, int], side: int = SIDE) -> Pixels:
    """Bars of (left, top, length, height), the n-th with red 10 n, up to 240; green fades from the begin to the end."""
    pixels = np.zeros((side, side, 3), np.uint8)
    for number, (left, top, length, height) in enumerate(bars, 1):
        pixels[top : top + height, left : left + length] = (10 * (number % 25), 0, 0)
        pixels[top : top + height, left : left + length, 1] = np.linspace(250, 50, length)
    return pixels


def found(pixels: Pixels, about: ImageAbout | None = None, bars: Bars | None = None) -> WrittenText:
    return read(pixels, about or ImageAbout("png", *pixels.shape[1::-1]), (bars or Bars()).networks)


def test_lines_come_in_reading_order_with_text_and_score() -> None:
    written = found(picture((40, 200, 400, 20), (40, 100, 400, 20), (600, 100, 300, 20)))
    assert written.text == "line 2\nline 1\nline 3"
    assert [line.text for line in written.lines] == written.text.split("\n")
    assert {line.score for line in written.lines} == {0.95}
    assert not written.truncated


def test_corners_are_pixels_of_the_stored_file() -> None:
    about = ImageAbout("jpeg", 1920, 1000)
    (line,) = found(picture((100, 200, 400, 20)), about).lines
    grown = 399 * 19 * 1.6 / (2 * 418)
    expected = [
        (100 - grown, 200 - grown),
        (500 + grown, 200 - grown),
        (500 + grown, 220 + grown),
        (100 - grown, 220 + grown),
    ]
    assert np.abs(np.array(line.corners) - 2 * np.array(expected)).max() <= 4


def test_corners_stay_in_the_picture() -> None:
    (line,) = found(picture((0, 0, 300, 20)), ImageAbout("png", 300, 20)).lines
    assert line.corners == ((0, 0), (300, 0), (300, 20), (0, 20))


@pytest.mark.parametrize(
    ("size", "shape"), [((960, 500), (512, 960, 3)), ((2000, 30), (32, 960, 3)), ((1, 1), (32, 32, 3))]
)
def test_the_detector_sees_no_more_than_the_picture(size: tuple[int, int], shape: tuple[int, ...]) -> None:
    bars = Bars()
    found(np.zeros((SIDE, SIDE, 3), np.uint8), ImageAbout("png", *size), bars)
    assert bars.seen == [shape]


@pytest.mark.parametrize("turns", range(4))
def test_turned_pages_are_read_and_corners_start_where_the_text_does(turns: int) -> None:
    page = picture((40, 100, 400, 20), (40, 200, 400, 20), (40, 300, 300, 20))
    written = found(np.ascontiguousarray(np.rot90(page, turns)))
    assert written.text == "line 1\nline 2\nline 3"
    x, y = written.lines[0].corners[0]
    there = [(24, 84), (84, 936), (936, 876), (876, 24)][turns]
    assert abs(x - there[0]) <= 2
    assert abs(y - there[1]) <= 2


@pytest.mark.parametrize(
    ("orientation", "kind", "mirrored"), [(2, "jpeg", 1), (5, "png", 1), (6, "jpeg", 0), (2, "tiff", 0)]
)
def test_text_that_is_stored_mirrored_is_read_as_shown(orientation: int, kind: str, mirrored: bool) -> None:
    pixels = picture((40, 100, 400, 20), (600, 100, 300, 20))
    if mirrored:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    written = found(pixels, ImageAbout(kind, SIDE, SIDE, orientation))
    assert written.text == "line 1\nline 2"
    begins = np.array([line.corners[0] for line in written.lines])
    expected = [(SIDE - 32, 92), (SIDE - 592, 92)] if mirrored else [(32, 92), (592, 92)]
    assert np.abs(begins - expected).max() <= 10


def test_a_minority_that_seems_upside_down_is_not_turned() -> None:
    page = picture((40, 100, 400, 20), (40, 200, 400, 20), (40, 300, 300, 20))
    page[300:320] = page[300:320, ::-1]
    assert found(page).text.split("\n")[:2] == ["line 1", "line 2"]


def test_lines_beyond_the_bound_are_cut() -> None:
    rows = [(20 + 160 * column, 10 + 24 * row, 60, 8) for column in range(6) for row in range(39)]
    written = found(picture(*rows[:199]))
    assert (len(written.lines), written.truncated) == (199, False)
    written = found(picture(*rows))
    assert (len(written.lines), written.truncated) == (200, True)


def test_columns_of_strips_are_bounded_at_once_and_together() -> None:
    bars = Bars()
    written = found(picture(*((10, 10 + 14 * row, 940, 5) for row in range(60))), bars=bars)
    strips = bars.seen[1:]
    assert (len(written.lines), written.truncated) == (35, True)
    assert 46_000 < sum(shape[0] * shape[2] for shape in strips) <= 48_000
    assert max(shape[0] * shape[2] for shape in strips) <= 2_048


def test_strips_of_a_dense_page_are_squeezed_to_fit() -> None:
    bars = Bars()
    written = found(picture(*((10, 10 + 14 * row, 940, 5) for row in range(34))), bars=bars)
    assert (len(written.lines), written.truncated) == (34, False)
    assert 47_000 < sum(shape[0] * shape[2] for shape in bars.seen[1:]) <= 48_000


def test_characters_are_bounded() -> None:
    rows = [(20 + 160 * column, 10 + 24 * row, 60, 8) for column in range(5) for row in range(39)]
    written = found(picture(*rows), bars=Bars("x" * 150))
    assert written.truncated
    assert 19_800 < len(written.text) <= 20_000


@pytest.mark.parametrize(
    ("text", "score", "read"),
    [
        ("line", 0.51, True),
        ("line", 0.49, False),
        ("a", 0.996, True),
        ("a", 0.99, False),
        ("abc", 0.89, False),
        ("ab", 0.91, True),
        ("ab", 0.89, False),
        ("", 0.99, False),
        (" ", 0.99, False),
    ],
)
def test_an_unsure_line_is_left_out(text: str, score: float, read: bool) -> None:
    assert bool(found(picture((40, 100, 400, 20)), bars=Bars(text, score)).lines) is read


def test_control_characters_and_overrides_of_direction_are_taken_out() -> None:
    assert plain("a\0b\x1b[31m\u202ec\u2066d\u200fe\ue000\ud800") == "ab[31mcde"
    assert plain(" \u202e one\n\ttwo\u3000\u2028three ") == "one two three"
    assert plain("e\u0301 ñ 出口 €") == "e\u0301 ñ 出口 €"
