"""Events whose profile names the tags that count: what the device is asked for, what is kept, and what comes out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.unit.pipeline.rig import POISON, ChoosyTagger, ColourTagger, EchoCaptioner, Rig, eventually
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
"""Every channel passes a threshold of 0.2, and none one of 0.5."""


class Colours(Rig):
    """A rig of one partition and a tagger that can score some labels alone, with profiles."""

    def __init__(self, tagger: ColourTagger | None = None) -> None:
        super().__init__(partitions=1)
        self.choosy = ChoosyTagger()
        self.tagger = tagger or self.choosy

    def worker(self, name: str = "w", **changes: Any) -> Worker:
        return super().worker(name, profiles=read_profiles(self.tagger, PROFILES), **changes)

    def ask(self, key: str, profile: str, colour: tuple[int, int, int] = GREY) -> None:
        self.put(key, colour)
        self.send(self.event(key, options={"profile": profile}))

    @contextmanager
    def one_batch(self, pictures: int) -> Iterator[None]:
        """Let so many pictures that are asked for in here be scored together, behind one that occupies the device."""
        self.ask("before", "loose", (1, 2, 3))
        self.tagger.gate.clear()
        with self.running() as worker:
            assert self.tagger.waiting.wait(10)
            yield
            eventually(lambda: worker.progress().in_flight["wait-device"] == pictures)
            self.tagger.gate.set()
            self.settled()

    def asked(self) -> list[tuple[int, ...] | None]:
        """The label ids that pictures were scored for, in batches where one wanted fewer than all; None: all."""
        found = [None if subset is None else subset.ids for subset in self.choosy.asked]
        return sorted(found, key=lambda ids: (ids is None, ids))

    def tags(self) -> dict[str, set[str]]:
        """By key, of what came of a picture that was asked for."""
        return {key: {tag.name for tag in image.tags} for key, image in self.enriched().items() if key != "before"}


def test_pictures_of_one_batch_are_scored_each_for_the_tags_of_its_profile() -> None:
    rig = Colours()
    with rig.one_batch(4):
        for number, (key, profile) in enumerate({"a": "warm", "b": "cold", "c": "loose", "d": "hot"}.items()):
            rig.ask(key, profile, (100 + number, 100, 100))
    assert rig.tagger.batches == [1, 4]
    assert rig.asked() == [(0,), (0,), (1, 2), None]
    assert rig.tags() == {"a": {"red"}, "b": {"green", "blue"}, "c": {"red", "green", "blue"}, "d": set()}


def test_the_event_says_which_profile_and_the_tagger_is_the_same_for_all() -> None:
    rig = Colours()
    rig.ask("a", "warm")
    rig.ask("b", "cold")
    with rig.running():
        rig.settled()
    warm, cold = (rig.enriched()[key] for key in ("a", "b"))
    assert (warm.thresholds.profile, cold.thresholds.profile) == ("warm", "cold")
    assert warm.thresholds.digest == read_profiles(rig.tagger, PROFILES)["warm"].digest != cold.thresholds.digest
    assert warm.models == cold.models
    assert warm.models.tagger is not None
    assert warm.models.tagger.digest == rig.tagger.digest


def test_a_profile_that_the_worker_does_not_have_is_a_dead_letter() -> None:
    rig = Colours()
    rig.ask("a", "lukewarm")
    with rig.running():
        rig.settled()
    assert [failure.reason for letter in rig.dead() for failure in letter.failures] == ["unknown-profile"]


def test_scores_of_some_tags_are_never_taken_for_those_of_all_or_of_others() -> None:
    rig = Colours()
    with rig.running():
        for key, profile in (("a", "warm"), ("b", "cold"), ("c", "loose")):
            rig.ask(key, profile)
            rig.settled()
    assert rig.tagger.batches == [1, 1, 1]
    assert {image.cache.tags for image in rig.enriched().values()} == {"miss"}
    assert rig.tags() == {"a": {"red"}, "b": {"green", "blue"}, "c": {"red", "green", "blue"}}


@pytest.mark.parametrize(("first", "then"), [("loose", "warm"), ("warm", "hot")])
def test_scores_of_all_tags_or_of_the_same_ones_answer_for_a_profiles(first: str, then: str) -> None:
    rig = Colours()
    with rig.running():
        for key, profile in (("a", first), ("b", then)):
            rig.ask(key, profile, (250, 100, 100))
            rig.settled()
    assert rig.tagger.batches == [1]
    assert rig.enriched()["b"].cache.tags == "hit"
    assert rig.tags()["b"] == {"red"}


def test_equal_pictures_in_flight_share_an_answer_only_when_it_is_for_the_same_tags() -> None:
    rig = Colours()
    with rig.one_batch(3):
        for key, profile in {"a": "warm", "b": "hot", "c": "cold", "d": "loose", "e": "cold"}.items():
            rig.ask(key, profile)
    assert rig.tagger.batches == [1, 3]
    everything = {"red", "green", "blue"}
    assert rig.tags() == {"a": {"red"}, "b": set(), "c": {"green", "blue"}, "d": everything, "e": {"green", "blue"}}


def test_a_caption_is_guided_by_the_tags_of_the_profile() -> None:
    rig = Colours()
    rig.captioner = EchoCaptioner()
    rig.ask("a", "cold")
    rig.ask("b", "warm")
    with rig.running():
        rig.settled()
        rig.ask("c", "cold")
        rig.settled()
    texts = {key: image.caption.text for key, image in rig.enriched().items() if image.caption}
    assert texts == {"a": "saw green | blue", "b": "saw red", "c": "saw green | blue"}
    assert rig.enriched()["c"].cache.caption == "hit"


def test_a_caption_that_fails_leaves_the_tags_of_the_profile() -> None:
    rig = Colours()
    rig.captioner = EchoCaptioner()
    rig.captioner.fails = True
    rig.ask("a", "warm")
    with rig.running():
        rig.settled()
    assert rig.enriched()["a"].status == "partial"
    assert rig.tags() == {"a": {"red"}}


def test_a_tagger_that_always_scores_all_shows_the_same_tags_and_keeps_all_scores() -> None:
    rig = Colours(ColourTagger())
    with rig.running():
        for key, profile in (("a", "cold"), ("b", "loose")):
            rig.ask(key, profile)
            rig.settled()
    assert rig.tagger.batches == [1]
    assert rig.tags() == {"a": {"green", "blue"}, "b": {"red", "green", "blue"}}


def test_the_guilty_picture_of_a_mixed_batch_is_found_and_its_neighbours_get_their_tags() -> None:
    rig = Colours()
    with rig.one_batch(3):
        rig.ask("a", "warm", (101, 100, 100))
        rig.ask("b", "cold", POISON)
        rig.ask("c", "loose", (102, 100, 100))
    assert [failure.reason for letter in rig.dead() for failure in letter.failures] == ["annotate-failed"]
    assert rig.tags() == {"a": {"red"}, "c": {"red", "green", "blue"}}


@pytest.mark.parametrize("fault", ["fails_on_subsets", "nan"])
def test_a_device_that_fails_where_tags_are_left_out_is_broken_and_no_picture_is_blamed(fault: str) -> None:
    rig = Colours()
    rig.ask("a", "warm")
    setattr(rig.tagger, fault, True)
    with pytest.raises(Broken, match="known to be good"):
        rig.run_to_its_end()
    assert rig.coordinates() == []


def test_memory_that_runs_out_halves_a_mixed_batch_and_everybody_keeps_their_tags() -> None:
    rig = Colours()
    rig.tagger.memory = 1
    with rig.one_batch(4):
        for number, (key, profile) in enumerate({"a": "warm", "b": "cold", "c": "loose", "d": "hot"}.items()):
            rig.ask(key, profile, (100 + number, 100, 100))
    assert rig.dead() == []
    assert set(rig.tagger.batches) == {1}
    assert rig.tags() == {"a": {"red"}, "b": {"green", "blue"}, "c": {"red", "green", "blue"}, "d": set()}
