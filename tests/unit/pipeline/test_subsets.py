"""Events with a profile of few labels: the scored labels, the cached scores, and the tags."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.harness import POISON, ChoosyTagger, ColourTagger, Harness
from tests.support.waiting import eventually
from workers.errors import Broken
from workers.pipeline.profiles import read_profiles
from workers.pipeline.worker import Worker

PROFILES: dict[str, object] = {
    "warm": {"only": ["red"], "all": 0.2},
    "hot": {"only": ["red"], "all": 0.9},
    "cold": {"only": ["blue", "green"], "all": 0.2},
    "loose": {"all": 0.2},
}
GREY = (100, 100, 100)
"""Every channel passes a threshold of 0.2, and no channel one of 0.5."""


class Colours(Harness):
    def __init__(self, tagger: ColourTagger | None = None) -> None:
        super().__init__(partitions=1)
        self.choosy = ChoosyTagger()
        self.tagger = tagger or self.choosy

    def worker(self, name: str = "w", **changes: Any) -> Worker:
        return super().worker(name, profiles=read_profiles(self.tagger, PROFILES), **changes)

    def ask(self, key: str, profile: str, colour: tuple[int, int, int] = GREY) -> None:
        self.give(key, colour, options={"profile": profile})

    @contextmanager
    def one_batch(self, images: int) -> Iterator[None]:
        self.ask("before", "loose", (1, 2, 3))
        self.tagger.gate.clear()
        with self.running() as worker:
            assert self.tagger.waiting.wait(10)
            yield
            eventually(lambda: worker.progress().in_flight["wait-device"] == images)
            self.tagger.gate.set()
            self.settled()

    def asked(self) -> list[tuple[int, ...] | None]:
        """The label ids of scored images, in batches where one wanted fewer than all; None: all."""
        found = [None if subset is None else subset.ids for subset in self.choosy.asked]
        return sorted(found, key=lambda ids: (ids is None, ids))

    def tags(self) -> dict[str, set[str]]:
        return {key: {tag.name for tag in image.tags} for key, image in self.enriched().items() if key != "before"}


def test_images_of_one_batch_are_scored_each_for_the_tags_of_its_profile() -> None:
    harness = Colours()
    with harness.one_batch(4):
        for number, (key, profile) in enumerate({"a": "warm", "b": "cold", "c": "loose", "d": "hot"}.items()):
            harness.ask(key, profile, (100 + number, 100, 100))
    assert harness.tagger.batches == [1, 4]
    assert harness.asked() == [(0,), (0,), (1, 2), None]
    assert harness.tags() == {"a": {"red"}, "b": {"green", "blue"}, "c": {"red", "green", "blue"}, "d": set()}


def test_the_failing_image_of_a_mixed_batch_is_found_and_the_others_get_their_tags() -> None:
    harness = Colours()
    with harness.one_batch(3):
        harness.ask("a", "warm", (101, 100, 100))
        harness.ask("b", "cold", POISON)
        harness.ask("c", "loose", (102, 100, 100))
    assert [failure.reason for dead_letter in harness.dead() for failure in dead_letter.failures] == ["annotate-failed"]
    assert harness.tags() == {"a": {"red"}, "c": {"red", "green", "blue"}}


@pytest.mark.parametrize("fault", ["fails_on_subsets", "nan"])
def test_a_device_that_fails_where_tags_are_left_out_is_broken_and_no_image_is_blamed(fault: str) -> None:
    harness = Colours()
    harness.ask("a", "warm")
    setattr(harness.tagger, fault, True)
    with pytest.raises(Broken, match="known to be good"):
        harness.run_to_its_end()
    assert harness.coordinates() == []
