"""Parts of a data set by content."""

from __future__ import annotations

import hashlib

import pytest

from tagstream_train.data.samples import Sample
from tagstream_train.data.splits import DEFAULT, part_of, split
from workers.errors import Misconfigured


def sample(number: int, name: str = "") -> Sample:
    return Sample(image=name or f"{number}.jpg", sha256=hashlib.sha256(str(number).encode()).hexdigest())


def test_an_image_under_two_names_is_in_one_part() -> None:
    samples = [sample(number, f"{copy}/{number}.jpg") for copy in "ab" for number in range(200)]
    parts = split(samples)
    hashes = [{each.sha256 for each in part} for part in parts.values()]
    assert sum(map(len, hashes)) == 200
    assert sum(map(len, parts.values())) == 400


def test_what_is_in_a_part_stays_there_when_images_are_added() -> None:
    few, more = split([sample(n) for n in range(200)]), split([sample(n) for n in range(400)])
    for part, samples in few.items():
        assert list(more[part][: len(samples)]) == list(samples)


def test_parts_have_the_sizes_asked_for() -> None:
    sizes = {part: len(samples) for part, samples in split([sample(n) for n in range(5000)]).items()}
    assert all(abs(sizes[part] - 5000 * fraction) < 150 for part, fraction in DEFAULT.items())


def test_another_salt_is_another_division() -> None:
    hashes = [sample(number).sha256 or "" for number in range(50)]
    assert [part_of(each, DEFAULT) for each in hashes] != [part_of(each, DEFAULT, salt="2") for each in hashes]


def test_a_part_of_nothing_gets_nothing() -> None:
    parts = split([sample(n) for n in range(50)], {"train": 1.0, "val": 0.0})
    assert (len(parts["train"]), len(parts["val"])) == (50, 0)


@pytest.mark.parametrize("fractions", [{}, {"train": 0.5}, {"train": 1.5, "val": -0.5}, {"train": float("nan")}])
def test_fractions_must_be_one_in_all(fractions: dict[str, float]) -> None:
    with pytest.raises(Misconfigured, match="must be 1 in all"):
        split([sample(1)], fractions)


def test_a_part_that_comes_out_empty_is_named() -> None:
    wrong = r"None of 1 images falls into the part '\w+' \(\d0%\): it takes more images"
    with pytest.raises(Misconfigured, match=wrong):
        split([sample(1)])


def test_a_sample_without_a_hash_is_named() -> None:
    with pytest.raises(Misconfigured, match="bare has no sha256"):
        split([Sample(image="bare")])
