"""Known images are not read, decoded or computed again, and equal images in flight are computed once."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

from tagstream_testing.memory import MemoryResultCache
from tests.support.harness import BUCKET, ColourTagger, png
from tests.support.inline_intake import InlineIntake
from tests.support.manual_pipeline import ManualPipeline
from workers.types import Document, Pixels

RED = png((255, 0, 0))


def red_twice(manual: ManualPipeline) -> None:
    for key in ("a", "b"):
        manual.store.put(BUCKET, key, RED)
    manual.handle("a", "b")
    assert sorted(manual.done) == [(0, 0, 0), (0, 1, 0)]
    assert not manual.in_flight


def test_equal_images_in_flight_are_read_and_computed_once(manual: ManualPipeline) -> None:
    """Guard: the handover of the flight; otherwise the waiting image is read again to find results in the cache."""
    red_twice(manual)
    assert manual.tagger.batches == [1]
    assert manual.reads == ["a", "b"]


def test_equal_images_in_flight_with_known_results_are_not_computed() -> None:
    """Guard: the first image computes nothing, and the second one still gets its results."""
    cache = MemoryResultCache()
    red_twice(ManualPipeline(cache=cache))
    manual = ManualPipeline(cache=cache)
    red_twice(manual)
    assert manual.tagger.batches == []


class Doubting(InlineIntake):
    def on_doubt(self, doubted: Callable[[Collection[str]], None]) -> None:
        self.doubted = doubted


class Counting(ColourTagger):
    images = 0

    def forward(self, images: Sequence[Pixels]) -> Sequence[Any]:
        self.images += len(images)
        return super().forward(images)


def test_a_doubted_image_is_computed_again_and_its_pending_entries_are_dropped() -> None:
    """Guard: otherwise a hijacked decoder decides the outcomes of all equal images."""
    tagger = Counting()
    manual = ManualPipeline(make_intake=lambda store: Doubting(store, [ColourTagger.transform]), tagger=tagger)
    manual.put("a")
    content = hashlib.sha256(png((0, 1, 9))).hexdigest()

    def computed() -> int:
        before = tagger.images
        manual.handle("a")
        return tagger.images - before

    assert [computed(), computed()] == [1, 0]
    manual.intake.doubted({"b" * 64})
    assert computed() == 0
    manual.intake.doubted({content})
    assert [computed(), computed()] == [1, 1]


OLD, NEW = png((1, 2, 3)), png((200, 5, 5))


def content_and_tags(manual: ManualPipeline, partition: int) -> dict[str, Any]:
    [outcome] = manual.done[partition, 0, 0]
    assert isinstance(outcome, Document)
    event = json.loads(outcome.value)
    return {"sha256": event["source"]["sha256"], "tags": event["tags"]}


def alone(body: bytes) -> dict[str, Any]:
    """As an image of these bytes comes out that meets no other."""
    manual = ManualPipeline()
    manual.store.put(BUCKET, "a", body)
    manual.handle("a")
    return content_and_tags(manual, 0)


def test_an_object_that_was_overwritten_while_it_waited_leads_those_no_more_that_it_was_equal_to() -> None:
    manual = ManualPipeline(partitions=4)
    for partition, key in enumerate("abcd"):
        manual.store.put(BUCKET, key, OLD)
        manual.events(key, partition=partition)
    manual.pipeline.parse.work()
    while len(manual.pipeline.lookup):
        manual.pipeline.lookup.work()
    assert manual.in_flight == {"wait-device": 1, "wait-equal": 3}
    manual.store.put(BUCKET, "b", NEW)
    manual.assignments[0].end()
    manual.turn()
    assert [content_and_tags(manual, partition) for partition in (1, 2, 3)] == [alone(NEW), alone(OLD), alone(OLD)]
    assert manual.reads == [*"abcd", "b", "c"]
