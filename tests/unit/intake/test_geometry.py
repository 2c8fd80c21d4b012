"""What a transform takes of an image, and the scale that is enough for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.intake.geometry import Part, part_of, resized_to, scale_of, scaled
from workers.types import Transform

SQUASH, CROP, PAD = Transform(384), Transform(224, "crop", 256, "bicubic"), Transform(448, "pad")

sides = st.integers(3, 70_000)
transforms = st.sampled_from((SQUASH, CROP, PAD, Transform(8), Transform(8, exif_transpose=True)))


@pytest.mark.parametrize(
    ("transform", "size", "scale"),
    [
        (SQUASH, (4000, 3000), 2),
        (SQUASH, (2304, 2304), 2),
        (SQUASH, (2303, 2304), 1),
        (SQUASH, (2304, 2303), 1),
        (SQUASH, (4608, 4608), 4),
        (SQUASH, (9216, 9216), 8),
        (SQUASH, (60_000, 60_000), 8),
        (SQUASH, (640, 480), 1),
        (SQUASH, (60_000, 300), 1),
        (CROP, (4000, 3000), 2),
        (CROP, (1536, 1536), 2),
        (CROP, (1535, 9000), 1),
        (PAD, (4000, 3000), 2),
        (PAD, (20_000, 64), 8),
    ],
)
def test_each_side_keeps_three_times_what_it_is_resized_to(
    transform: Transform, size: tuple[int, int], scale: int
) -> None:
    assert scale_of([transform], size, 3.0) == scale


@given(transforms, sides, sides, st.sampled_from((1.0, 1.5, 3.0)))
def test_no_scale_leaves_less_than_the_gap_and_the_next_would(
    transform: Transform, width: int, height: int, gap: float
) -> None:
    scale = scale_of([transform], (width, height), gap)
    part = part_of(transform, (width, height)).size
    pairs = list(zip(part, resized_to(transform, part), strict=True))
    if scale > 1:
        assert all(side / scale >= gap * target for side, target in pairs)
    if scale < 8:
        assert any(side / (2 * scale) < gap * target for side, target in pairs)


@given(transforms, sides, sides)
def test_a_turn_changes_no_scale(transform: Transform, width: int, height: int) -> None:
    assert scale_of([transform], (width, height), 3.0) == scale_of([transform], (height, width), 3.0)


def test_the_most_demanding_transform_decides() -> None:
    assert scale_of([Transform(8), SQUASH], (9216, 9216), 3.0) == scale_of([SQUASH], (9216, 9216), 3.0)
    assert scale_of([Transform(8), SQUASH], (640, 480), 3.0) == 1


def test_nothing_is_scaled_where_it_is_switched_off_or_there_is_nothing_to_make() -> None:
    assert scale_of([SQUASH], (60_000, 60_000), 0.0) == 1
    assert scale_of([], (60_000, 60_000), 3.0) == 1


def test_a_column_that_is_begun_counts_whole() -> None:
    assert scaled((4001, 3000), 8) == (501, 375)
    assert scaled((5, 7), 1) == (5, 7)


def test_a_crop_sees_four_times_the_shorter_side_at_most() -> None:
    assert part_of(CROP, (1000, 100)) == Part(300, 0, 400, 100)
    assert part_of(CROP, (100, 1001)) == Part(0, 300, 100, 400)
    assert part_of(SQUASH, (1000, 100)) == Part(0, 0, 1000, 100)
