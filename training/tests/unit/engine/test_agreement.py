"""Thresholds by how often a model agrees with what a set says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tagstream_train.data.images import Images
from tagstream_train.data.samples import DataSet, write_dataset
from tagstream_train.engine.generate import agreeing
from tagstream_train.thresholds import OFF
from tests.support.harness import ColourTagger
from training.tests.unit.pictures import png, shades, write
from workers.errors import Misconfigured

RED, GREEN = 0, 1


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    """All images from shade 128 on are red, and of these but two in three are said to be; every seventh is green."""
    samples = []
    for number, sample in enumerate(shades(tmp_path, 256)):
        red = {RED} if number >= 128 and number % 3 else set()
        samples.append(sample.model_copy(update={"tags": tuple(sorted(red | ({GREEN} if number % 7 == 0 else set())))}))
    return write_dataset(tmp_path, samples, ("red", "green"), name="shades")


def test_a_label_is_given_where_it_agrees_with_the_set_often_enough(dataset: DataSet) -> None:
    red, _, _ = agreeing(ColourTagger(), dataset, Images(dataset.folder), 0.5)
    strict, _, _ = agreeing(ColourTagger(), dataset, Images(dataset.folder), 0.99)
    assert 60 / 255 < red < 140 / 255
    assert strict > red


def test_a_label_that_a_model_can_not_tell_is_given_to_none(dataset: DataSet) -> None:
    _, green, blue = agreeing(ColourTagger(), dataset, Images(dataset.folder), 0.5)
    assert green == OFF  # all images are as green
    assert blue == OFF  # and the set has no such label


def test_a_set_that_is_too_small_to_measure_on_is_a_sentence(tmp_path: Path) -> None:
    dataset = write(tmp_path, [png(7)], ("red", "green"))
    with pytest.raises(Misconfigured):
        agreeing(ColourTagger(), dataset, Images(tmp_path), 0.5)
