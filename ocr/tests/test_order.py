"""Lines out of pieces, and the order in which they are read."""

import numpy as np
import pytest

from tagstream_ocr.boxes import reading_order, whole_lines


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
