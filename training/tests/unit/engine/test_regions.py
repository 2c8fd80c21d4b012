"""Which parts of an image are looked at."""

from __future__ import annotations

import pytest
from PIL import Image

from tagstream_train.engine.regions import MAX_REGIONS, Box, Grid, crops, regions_of
from workers.errors import Misconfigured


def test_a_grid_is_the_whole_and_overlapping_halves() -> None:
    boxes = Grid().propose(Image.new("RGB", (100, 60)), [])
    assert boxes[0] == Box(0, 0, 100, 60)
    assert sorted(boxes[1:]) == sorted(Box(x, y, x + 50, y + 30) for x in (0, 25, 50) for y in (0, 15, 30))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (7, 3), (4000, 9)])
def test_a_grid_lies_inside_any_image_and_covers_it(size: tuple[int, int]) -> None:
    boxes = Grid((0.5, 0.34)).propose(Image.new("RGB", size), [])
    assert all(0 <= b.left < b.right <= size[0] and 0 <= b.top < b.bottom <= size[1] for b in boxes)
    assert {(b.left, b.top) for b in boxes} >= {(0, 0)}
    assert max(b.right for b in boxes) == size[0]
    assert max(b.bottom for b in boxes) == size[1]


def test_what_a_detector_proposes_outside_is_cut_off() -> None:
    image = Image.new("RGB", (10, 10))
    found = crops(image, [Box(-5, -5, 4, 4), Box(20, 20, 30, 30), Box(5, 5, 5, 9), Box(6, 6, 99, 99)])
    assert [(box, part.size) for box, part in found] == [(Box(0, 0, 4, 4), (4, 4)), (Box(6, 6, 10, 10), (4, 4))]
    assert len(crops(image, [Box(0, 0, 1, 1)] * 1000)) == MAX_REGIONS


def test_a_detector_that_is_not_installed_is_said() -> None:
    assert isinstance(regions_of("grid"), Grid)
    with pytest.raises(Misconfigured, match=r"no such detector is installed; there is grid.*tagstream\.regions"):
        regions_of("grounding")
