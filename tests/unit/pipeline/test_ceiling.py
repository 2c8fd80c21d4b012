"""The ceiling on blame: when one image after another fails the device does, whatever the self-test image says."""

from __future__ import annotations

import pytest

from tests.support.harness import POISON, Harness
from workers.errors import Broken
from workers.pipeline.annotator import Ceiling


def test_so_many_in_a_row_are_too_many() -> None:
    ceiling = Ceiling(run=20)
    for _ in range(19):
        ceiling.note(True)
    with pytest.raises(Broken, match="20 of the last 20 images made the model fail"):
        ceiling.note(True)


def test_one_that_came_through_ends_the_row() -> None:
    ceiling = Ceiling(run=20)
    for _ in range(19):
        ceiling.note(True)
    ceiling.note(False)
    for _ in range(19):
        ceiling.note(True)


def test_more_than_a_share_of_the_last_ones_is_too_much() -> None:
    ceiling = Ceiling(run=20, share=0.5, window=4)
    for blamed in (True, False, True, False, True):
        ceiling.note(blamed)
    with pytest.raises(Broken, match="3 of the last 4 images made the model fail"):
        ceiling.note(True)


def test_few_images_have_no_share_yet() -> None:
    ceiling = Ceiling(run=20, share=0.5, window=100)
    ceiling.note(False)
    for _ in range(19):
        ceiling.note(True)


@pytest.mark.parametrize("max_batch", [1, 8])
def test_a_device_that_fails_on_all_but_the_known_good_image_ends_the_worker(max_batch: int) -> None:
    """Guard: Ceiling.note. Without it the whole topic would be dead-lettered."""
    harness = Harness()
    harness.tagger.max_batch = max_batch
    for number in range(60):
        harness.put(f"{number}.png", POISON)
        harness.send(harness.event(f"{number}.png"))
    with pytest.raises(Broken, match="made the model fail"):
        harness.run_to_its_end()
    assert len(harness.dead()) < 20
    assert len(harness.dead()) == len(harness.coordinates())
