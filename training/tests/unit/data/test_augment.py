"""Random changes to training images."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from PIL import Image

from tagstream_train.data.augment import FLIP_ONLY, OPERATIONS, Augment
from workers.models.tagger import sample_image

IMAGE = Image.fromarray(sample_image(48))


def pixels(augment: Augment, seed: int, image: Image.Image = IMAGE) -> bytes:
    return augment(image, 32, Random(seed)).tobytes()


def test_the_same_numbers_give_the_same_pixels_and_others_others() -> None:
    assert [pixels(Augment(), seed) for seed in range(20)] == [pixels(Augment(), seed) for seed in range(20)]
    assert len({pixels(Augment(), seed) for seed in range(20)}) == 20


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1000, 3), (3, 1000), (31, 77)])
def test_an_image_of_any_shape_becomes_a_square(size: tuple[int, int]) -> None:
    for seed in range(20):
        assert Augment()(Image.new("RGB", size), 32, Random(seed)).size == (32, 32)


def test_a_crop_has_its_part_of_the_area_and_its_shape() -> None:
    augment = Augment()
    for seed in range(200):
        left, top, right, bottom = augment._box((400, 400), Random(seed))
        assert 0.19 <= (right - left) * (bottom - top) / 400**2 <= 1.0
        assert 0.74 <= (right - left) / (bottom - top) <= 1.35


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"Identity"}))
def test_each_operation_changes_an_image_and_keeps_its_size(name: str) -> None:
    dull = IMAGE.point(lambda value: 50 + value // 3)  # so that AutoContrast has something to do
    changed = OPERATIONS[name](dull, 0.5)
    assert (changed.size, changed.mode) == (dull.size, "RGB")
    assert changed.tobytes() != dull.tobytes()


def test_a_magnitude_of_nothing_changes_nothing() -> None:
    for name in set(OPERATIONS) - {"AutoContrast", "Equalize"}:
        difference = np.asarray(OPERATIONS[name](IMAGE, 0.0), int) - np.asarray(IMAGE, int)
        assert abs(difference).max() <= 1, name


def test_flip_only_flips_and_does_no_more() -> None:
    plain = IMAGE.resize((32, 32), Image.Resampling.BICUBIC)
    flipped = plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    square = IMAGE.crop((0, 0, 48, 48))
    found = {pixels(FLIP_ONLY, seed, square) for seed in range(20)}
    assert found == {plain.tobytes(), flipped.tobytes()}
