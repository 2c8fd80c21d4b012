"""Progress: a clock for each image that a stage works on, and no clock for waiting images."""

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from tagstream_testing.memory import ManualClock, MemoryObjectStore, MemoryResultCache
from tests.support.harness import ColourTagger
from tests.support.inline_intake import InlineIntake
from tests.support.manual_pipeline import ManualPipeline
from tests.support.readers import image_of
from workers.errors import Unavailable
from workers.pipeline.progress import Place, TaskProgress
from workers.pipeline.task import Task
from workers.types import Coordinates, DecodedImage, Facts, Fetched, Job, Transform


class Hanging(InlineIntake):
    """One object hangs in its hands, in one of its three stages."""

    def __init__(self, stage: str, store: MemoryObjectStore) -> None:
        super().__init__(store, [ColourTagger.transform])
        self.stage = stage
        self.keys = {"bad.png"}
        self._bad: set[str] = set()
        self.working: tuple[Job | None, float] = None, float("inf")

    def fetch(self, job: Job, max_bytes: int) -> Future[Fetched]:
        bad = job.event.key in self.keys
        if bad and self.stage == "fetch":
            return Future()
        fetched = super().fetch(job, max_bytes)
        if bad and fetched.exception() is None:
            self._bad.add(fetched.result().sha256)
        return fetched

    def inspect(self, fetched: Fetched) -> Future[Facts]:
        return self._hang("inspect", fetched) or super().inspect(fetched)

    def decode(
        self, fetched: Fetched, facts: Facts, transforms: Sequence[Transform] | None = None
    ) -> Future[DecodedImage]:
        return self._hang("decode", fetched) or super().decode(fetched, facts, transforms)

    def _hang(self, stage: str, fetched: Fetched) -> Future[Any] | None:
        if self.stage != stage or fetched.sha256 not in self._bad:
            return None
        self.working = fetched.job, 0.0
        return Future()

    def at_work(self) -> tuple[Job | None, float]:
        return self.working


def with_a_hanging(stage: str) -> tuple[ManualPipeline, Hanging]:
    manual = ManualPipeline(2, make_intake=partial(Hanging, stage), stall_timeout_s=60.0, get_timeout_s=30.0)
    manual.put("bad.png", *[f"{number}.png" for number in range(200)])
    manual.handle("bad.png", partition=1)
    return manual, manual.intake


def others_flow(manual: ManualPipeline, seconds: int) -> None:
    for _ in range(seconds):
        manual.handle(f"{len(manual.done)}.png")
        manual.clock.advance(1)


def test_a_decoder_that_hangs_is_no_life_although_all_others_flow() -> None:
    """Guard: the clock of each image. Something moves all the time, and one partition would be stuck for ever."""
    manual, intake = with_a_hanging("decode")
    job, _ = intake.working
    intake.working = job, 60.0
    others_flow(manual, 60)
    assert manual.worker.progress().ok
    others_flow(manual, 1)
    intake.working = job, 61.0
    progress = manual.worker.progress()
    assert progress.reasons == ("a decoder has worked on one image for 61 s: images:1:0, index 0",)
    assert not progress.ok
    assert len(manual.done) == 61


def test_a_get_has_a_clock_of_its_own() -> None:
    manual, _ = with_a_hanging("fetch")
    others_flow(manual, 90)
    assert manual.worker.progress().ok
    others_flow(manual, 1)
    assert manual.worker.progress().reasons == ("fetch has worked on one image for 91 s: images:1:0, index 0",)


def test_a_get_after_a_comparison_has_a_clock_of_its_own() -> None:
    """Guard: a slow store would look like one that hangs as soon as an image needs two answers of it."""

    class SlowStore(InlineIntake):
        odd = 0

        def fetch(self, job: Job, max_bytes: int) -> Future[Fetched]:
            if job.event.key != "odd":
                manual.clock.advance(80)
                return super().fetch(job, max_bytes)
            self.odd += 1
            found: Future[Fetched] = Future()
            if self.odd == 1:
                found.set_exception(Unavailable("s3", "away"))
            return found

    manual = ManualPipeline(
        make_intake=lambda store: SlowStore(store, [ColourTagger.transform]), stall_timeout_s=60.0, get_timeout_s=30.0
    )
    manual.put("read", "odd")
    manual.handle("read")
    manual.handle("odd")
    manual.clock.advance(1)
    manual.turn()
    assert manual.in_flight == {"fetch": 1}
    too_long = "fetch has worked on one image for 91 s: images:0:1, index 0"
    manual.clock.advance(90)
    assert not any("one image" in reason for reason in manual.worker.progress().reasons)
    manual.clock.advance(1)
    assert too_long in manual.worker.progress().reasons


def test_who_waits_for_the_store_has_no_clock() -> None:
    manual, _ = with_a_hanging("neither")
    manual.clock.advance(1)
    manual.store.fail("photos", None, Unavailable("s3", "away"))
    manual.events("0.png", "1.png", "2.png", "3.png")
    manual.turns(900, every_s=1.0)
    assert manual.in_flight == {"wait-store": 4}
    assert manual.worker.progress().ok


def test_each_stage_reports_its_time_and_waiting_counts_as_a_stage(manual: ManualPipeline) -> None:
    manual.put("a.png")
    manual.store.fail("photos", "a.png", Unavailable("s3", "away"), times=1)
    manual.handle("a.png")
    manual.clock.advance(1.5)
    manual.turn()
    [[outcome]] = manual.done.values()
    image = image_of(outcome)
    assert {stage: ms for stage, ms in image.timings_ms.items() if ms} == {"wait-store": 1500.0}
    before = ["lookup", "wait-fetch", "fetch", "wait-store", "wait-equal"]
    assert [*image.timings_ms] == [
        *before, "wait-inspect", "inspect", "wait-decode", "decode", "wait-device", "annotate",
    ]  # fmt: skip


class SlowCache(MemoryResultCache):
    """Every question takes a second of the pipeline's clock."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.pipeline: ManualPipeline

    def lookup(self, keys: Sequence[str]) -> list[bytes | None]:
        self._take_a_second()
        return super().lookup(keys)

    def lookup_fields(self, fields: Sequence[tuple[str, str]]) -> list[bytes | None]:
        self._take_a_second()
        return super().lookup_fields(fields)

    def _take_a_second(self) -> None:
        self.asked += 1
        self.pipeline.clock.advance(1)


def test_the_time_of_a_cache_call_belongs_to_the_lookup_alone() -> None:
    """Guard: the return to it after the fetch and after the header; else a slow cache looks like a slow store."""
    cache = SlowCache()
    manual = cache.pipeline = ManualPipeline(cache=cache, judge="these limits")
    manual.put("a.png")
    manual.handle("a.png", etag=manual.store.head("photos", "a.png", deadline_s=1).etag)
    [[outcome]] = manual.done.values()
    assert cache.asked == 3, "by its event, by its bytes, by its content"
    assert {stage: ms for stage, ms in image_of(outcome).timings_ms.items() if ms} == {"lookup": 3000.0}


def test_a_stage_that_is_entered_again_adds_up_to_the_thousandth() -> None:
    task: Task = object.__new__(Task)
    task.timings_ms = {}
    task.took("fetch", 0.0012346)
    task.took("fetch", 1.5)
    assert task.timings_ms == {"fetch": 1501.235}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["inspect", "decode"])
def test_an_image_that_others_overtake_while_it_waits_for_a_decoder_is_not_stalled(place: str) -> None:
    """Guard: partitions take turns at the decoders, so who overtakes says nothing about who is worked on."""
    manual, intake = with_a_hanging(place)
    for second in range(600):
        intake.working = None, 0.5 * (second % 2)
        others_flow(manual, 1)
        assert manual.worker.progress().reasons == ()
    assert manual.in_flight == {place: 1}


def test_decoders_that_are_at_long_images_for_minutes_stand_still_no_more_than_they_do() -> None:
    """Guard: a second try of each image; otherwise no image leaves for minutes."""
    manual, intake = with_a_hanging("decode")
    job = intake.working[0]
    for second in range(600):
        intake.working = job, second % 20
        manual.clock.advance(1)
        assert manual.worker.progress().ok


def test_decoders_without_new_images_count_as_stalled_although_other_images_flow() -> None:
    """Guard: an intake with a hanging scheduler; images with known facts or results still flow."""
    manual, intake = with_a_hanging("decode")
    intake.working = None, 1000.0
    others_flow(manual, 60)
    assert manual.worker.progress().ok
    others_flow(manual, 1)
    assert manual.worker.progress().reasons == ("no decoder has taken an image that waits for 61 s",)


def progress_of(place: Place) -> tuple[ManualClock, TaskProgress, list[Task]]:
    clock = ManualClock(0.0)
    progress = TaskProgress(clock, [Place("before"), place, Place("after")])
    tasks: list[Task] = [
        Task(Job(Coordinates("images", 0, offset, 0), None, None), None, None, None, "before")  # type: ignore[arg-type]
        for offset in range(3)
    ]
    for task in tasks:
        progress.enter(task)
    progress.move_all(tasks, place.name)
    return clock, progress, tasks


def test_where_one_comes_after_the_other_the_time_in_the_queue_is_not_counted() -> None:
    clock, progress, tasks = progress_of(Place("finish", works=True, in_turn=True))
    for task in tasks:
        clock.advance(60.0)
        assert progress.stuck({"finish": 60.0}) == []
        progress.move(task, "after")
    assert progress.stuck({"finish": 0.0}) == []


def test_where_all_are_worked_on_at_once_each_has_a_clock_from_its_arrival() -> None:
    clock, progress, (first, second, third) = progress_of(Place("fetch", works=True))
    clock.advance(60.0)
    progress.move(first, "after")
    progress.move(third, "after")
    clock.advance(1.0)
    assert progress.stuck({"fetch": 60.0}) == ["fetch has worked on one image for 61 s: images:0:1, index 0"]
    progress.move(second, "after")
    assert progress.stuck({"fetch": 0.0}) == []
