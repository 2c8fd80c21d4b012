"""Reservations of the budgets by an image on its way."""

import gc
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from schemas.dead_letter import Failure
from schemas.enriched_image import EnrichedImage
from tagstream_testing.memory import MemoryObjectStore
from tests.support.harness import BUCKET, ColourTagger, png
from tests.support.inline_intake import InlineIntake
from tests.support.manual_pipeline import ManualPipeline
from tests.support.readers import read
from tests.unit.pipeline.test_progress import Hanging
from workers.errors import LargerThanReserved
from workers.types import DecodedImage, Facts, Fetched, Job, StoredObject, Transform


class _Copying(InlineIntake):
    def __init__(self, more_bytes: int, store: MemoryObjectStore) -> None:
        super().__init__(store, [ColourTagger().transform])
        self._more_bytes = more_bytes

    def fetch(self, job: Job, max_bytes: int) -> Future[Fetched]:
        found: Future[Fetched] = Future()
        fetched = super().fetch(job, max_bytes).result()
        found.set_result(replace(fetched, size=fetched.size + self._more_bytes, inspect_bytes=0))
        return found


def test_a_decode_reserves_the_copy_that_it_works_on() -> None:
    """Guard: without it a child's copy of the encoded bytes is memory that no budget counts."""
    lines = []
    for more_bytes in (0, 5_000):
        manual = ManualPipeline(make_intake=partial(_Copying, more_bytes))
        manual.put("a")
        manual.handle("a")
        assert len(manual.done) == 1
        lines.append(manual.pipeline)
    assert lines[1].decode.budget.peak == lines[0].decode.budget.peak + 5_000
    assert [pipeline.decode.budget.used for pipeline in lines] == [0, 0]


def hanging_in(stage: str) -> ManualPipeline:
    """The GET of an image without a size in its event hangs."""
    manual = ManualPipeline(make_intake=partial(Hanging, stage))
    manual.put("bad.png")
    manual.handle("bad.png")
    assert manual.in_flight == {stage: 1}
    return manual


def test_an_image_of_unknown_size_reserves_the_largest_until_it_is_there_and_then_its_own() -> None:
    """Guard: else a budget for many images lets in as many as it has room for the largest."""
    asked = hanging_in("fetch")
    largest = asked.options.max_object_bytes
    assert (asked.pipeline.fetch.encoded.used, asked.pipeline.fetch.slots.used) == (largest, 1)
    manual = hanging_in("inspect")
    size = len(manual.store.get(BUCKET, "bad.png", version_id=None, etag=None, max_bytes=1 << 20, deadline_s=1).body)
    assert (manual.pipeline.fetch.encoded.used, manual.pipeline.fetch.slots.used) == (size, 0)


def test_pixels_reserve_what_decoding_takes_until_they_are_there_and_then_their_own(manual: ManualPipeline) -> None:
    decoding = hanging_in("decode").pipeline
    manual.give("bad.png")
    manual.pipeline.parse.work()
    manual.pipeline.lookup.work()
    [decoded] = manual.pipeline.annotate._with_own.take(1)
    size = sum(image.nbytes for image in decoded.images.values())
    assert (manual.pipeline.decode.budget.used, manual.pipeline.fetch.encoded.used) == (size, 0)
    assert decoding.decode.budget.used > size > 0
    decoded.task.close("dropped")
    assert not decoded.images, "the pixels go with their reservation, although the batch still has the task"


def test_an_image_with_known_results_releases_its_bytes_at_once() -> None:
    """Guard: it waits for the finish stage, and others for the room."""
    first = ManualPipeline()
    first.put("a")
    first.handle("a")
    first.pipeline.lookup.work()
    again = ManualPipeline(cache=first.cache)
    again.give("a")
    again.pipeline.parse.work()
    again.pipeline.lookup.work()
    assert again.in_flight == {"finish": 1}
    assert (again.pipeline.fetch.encoded.used, again.pipeline.decode.budget.used) == (0, 0)


class _Watched(MemoryObjectStore):
    """Counts the bytes that readers hold in memory: a body counts until it is collected."""

    def __init__(self) -> None:
        super().__init__()
        self.make_bucket(BUCKET)
        self.held = self.most_held = 0
        self.asked: list[int] = []

    def get(self, bucket: str, key: str, **wanted: Any) -> StoredObject:
        self.asked.append(wanted["max_bytes"])
        stored = super().get(bucket, key, **wanted)
        self.held += len(stored.body)
        self.most_held = max(self.most_held, self.held)
        return stored


class _Counting(InlineIntake):
    def __init__(self, store: _Watched) -> None:
        super().__init__(store, [ColourTagger().transform])
        self._store = store

    def decode(
        self, fetched: Fetched, facts: Facts, transforms: Sequence[Transform] | None = None
    ) -> Future[DecodedImage]:
        self._store.held -= fetched.size
        return super().decode(fetched, facts, transforms)

    def discard(self, fetched: Fetched) -> None:
        self._store.held -= fetched.size
        super().discard(fetched)


def test_no_event_gets_more_bytes_read_than_are_reserved_however_small_it_says_that_its_object_is() -> None:
    """Guard: without the second reservation 40 objects of 1 MiB each are held under a budget of 8 MiB."""
    store = _Watched()
    body = png((1, 2, 3))
    for number in range(40):
        store.put(BUCKET, f"{number}", body + number.to_bytes(2, "big") + bytes(1 << 20))
    manual = ManualPipeline(intake=_Counting(store), encoded_bytes=8 << 20, decoded_bytes=33 << 20)
    manual.handle(*[f"{number}" for number in range(40)], size=1)
    assert len(manual.done) == 40
    assert all(isinstance(read(outcome), EnrichedImage) for outcomes in manual.done.values() for outcome in outcomes)
    assert (manual.pipeline.fetch.encoded.used, manual.pipeline.fetch.slots.used, store.held) == (0, 0, 0)
    assert store.most_held <= manual.pipeline.fetch.encoded.peak <= 8 << 20
    assert sorted(store.asked)[:40] == [1] * 40


def test_a_store_that_announces_too_little_as_well_is_asked_three_times_and_no_more() -> None:
    class Understating(_Watched):
        def get(self, bucket: str, key: str, **wanted: Any) -> StoredObject:
            try:
                return super().get(bucket, key, **wanted)
            except LargerThanReserved as error:
                raise LargerThanReserved(min(error.size or 0, wanted["max_bytes"] + 1)) from None

    store = Understating()
    store.put(BUCKET, "a", png((1, 2, 3)))
    manual = ManualPipeline(intake=_Counting(store), max_object_bytes=20 << 20)
    manual.handle("a", size=5)
    assert store.asked == [5, 6, 20 << 20]
    assert len(manual.done) == 1


def test_an_event_that_overstates_the_size_reserves_no_more_than_an_object_may_have() -> None:
    manual = ManualPipeline(max_object_bytes=1 << 20)
    manual.put("a")
    manual.handle("a", size=1 << 60)
    assert manual.pipeline.fetch.encoded.peak == 1 << 20
    (failure,) = manual.done[0, 0, 0]
    assert isinstance(failure, Failure)
    assert failure.reason == "object-too-large"


def test_an_equal_image_that_waits_gives_its_bytes_back_to_the_intake() -> None:
    """Guard: `discard`; in a child's memory they would stay as long as it lives."""
    store = _Watched()
    for key in ("a", "b"):
        store.put(BUCKET, key, png((1, 2, 3)))
    manual = ManualPipeline(intake=_Counting(store))
    manual.handle("a", "b")
    assert len(manual.done) == 2
    assert store.held == 0


@pytest.mark.slow
def test_what_waits_for_its_commit_holds_no_more_memory_than_its_ledger_counts(manual: ManualPipeline) -> None:
    """Guard: an outcome kept as a document takes three times the memory that is counted for its message."""
    manual.put("a")
    manual.handle(*["a"] * 50)
    gc.collect()
    tracemalloc.start()
    try:
        held, counted = tracemalloc.get_traced_memory()[0], manual.pipeline.ledger.bytes
        manual.done.clear()
        manual.handle(*["a"] * 300)
        assert len(manual.done) == 300
        manual.done.clear()
        gc.collect()
        held, counted = tracemalloc.get_traced_memory()[0] - held, manual.pipeline.ledger.bytes - counted
    finally:
        tracemalloc.stop()
    assert len(manual.pipeline.ledger.ready(1_000, 10_000_000).entries) == 350  # type: ignore[union-attr]
    assert counted > 300 * 1_000
    assert held < 1.2 * counted
