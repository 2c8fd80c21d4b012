"""A stage's answers to the worker: its limits, and whether it stalls."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from schemas.enriched_image import EnrichedImage
from tests.support.harness import ColourTagger
from tests.support.manual_pipeline import ManualPipeline
from tests.support.measured import measuring
from tests.support.readers import read
from tests.support.tasks import FACTS, TAGGER, a_task, annotation, complete
from tests.support.waiting import ends, waiting
from workers import metrics
from workers.pipeline.cache_entries import CacheWrite
from workers.pipeline.known_results import KnownResults
from workers.pipeline.roles import make_roles
from workers.pipeline.stages.stage import QueueStage, StageQueue
from workers.pipeline.task import DecodedTask, LoadedTask
from workers.types import Fetched, LabelScores, Pixels


def test_every_kind_of_work_on_an_image_has_the_limit_of_one_stage() -> None:
    """Guard: a stage that states no limit may hang for ever. Of decoders the intake knows, and the stage asks it."""
    stages = ManualPipeline().pipeline.stages
    for stage in stages:
        works = {place.name for place in stage.places if place.works}
        assert set(stage.limits_s) == works - {"inspect", "decode"}
    working = [name for stage in stages for name in stage.limits_s]
    assert sorted(working) == ["annotate", "fetch", "finish"]


def test_every_bound_is_shared_among_the_partitions() -> None:
    pipeline = ManualPipeline().pipeline
    for stage in pipeline.stages:
        stage.divide(4)
    assert all(budget._partitions == 4 for stage in pipeline.stages for budget in stage.budgets.values())
    assert {name for stage in pipeline.stages for name in stage.budgets} == {"encoded", "decoded"}
    assert pipeline.fetch.slots._partitions == 4


class _Two(QueueStage):
    def __init__(self) -> None:
        super().__init__("two")
        self.seen: list[Sequence[Any]] = []
        self.words: StageQueue[str] = self._queue(self.seen.append)
        self.numbers: StageQueue[int] = self._queue(self.seen.append, most=lambda: 2)


def test_a_stage_takes_ready_items_from_each_of_its_queues_up_to_its_number() -> None:
    stage = _Two()
    stage.numbers.put(0, 1, 2)
    stage.words.put("a", "b")
    stage.step()
    assert stage.seen == [["a", "b"], [0, 1]]
    assert len(stage) == 1
    stage.step()
    assert stage.seen[2:] == [[2]]


def test_a_stage_that_waits_is_woken_by_an_item_in_any_of_its_queues_and_by_the_worker() -> None:
    """Guard: a queue with a condition of its own would leave the stage asleep."""
    stage = _Two()
    wakes: list[Callable[[], None]] = [lambda: stage.words.put("a"), lambda: stage.numbers.put(1), stage.wake]
    for wake in wakes:
        thread = waiting(stage.step, 600.0)
        wake()
        assert ends(thread)
    assert stage.seen == [["a"], [1]]


def test_a_stage_waits_the_given_time_for_an_item_or_one_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard: it would go round and round with nothing to do."""
    stage = _Two()
    waits: list[tuple[bool, float]] = []
    monkeypatch.setattr(stage._filled, "wait_for", lambda ready, within_s: waits.append((bool(ready()), within_s)))
    stage.step(600.0)
    stage.words.put("a")
    stage.step(5.0)
    stage.wake()
    stage.step(5.0)
    stage.step(5.0)
    assert waits == [(False, 600.0), (True, 5.0), (True, 5.0), (False, 5.0)]


def test_every_stage_with_queues_has_a_thread_of_its_own() -> None:
    """Guard: the name; a stage without one is never called."""
    stages = ManualPipeline().pipeline.stages
    assert sorted(stage.thread for stage in stages if stage.thread) == ["device", "finish", "lookup", "parse"]
    assert all(stage.thread for stage in stages if isinstance(stage, QueueStage))


def test_a_batch_may_take_five_times_the_slowest_so_far_and_at_least_fifteen_seconds() -> None:
    takes_s = (15.0, 75.0)
    told: list[tuple[str | None, str | None, float]] = []

    class Slow(ColourTagger):
        def forward(self, images: Sequence[Pixels]) -> Sequence[Any]:
            manual.clock.advance(takes_s[len(told)])
            limit, now = stage.limits_s["annotate"], manual.clock.monotonic()
            told.append((stage.stalled(now), stage.stalled(now + 1), limit))
            return super().forward(images)

    manual = ManualPipeline(tagger=Slow(), stall_timeout_s=10.0)
    stage = manual.pipeline.annotate
    for key in ("a", "bb"):
        manual.put(key)
        manual.handle(key)
        assert stage.stalled(manual.clock.monotonic() + 1_000) is None, "it is idle"
    assert told == [
        (None, "the device has worked on one batch for 16 s", 15.0),
        (None, "the device has worked on one batch for 76 s", 75.0),
    ]


@pytest.mark.parametrize("stage", ["parse", "lookup"])
def test_a_stage_with_a_thousand_items_before_it_admits_no_further_record(manual: ManualPipeline, stage: str) -> None:
    waiting = {"parse": manual.pipeline.parse, "lookup": manual.pipeline.lookup}[stage]

    def add(items: int) -> None:
        if stage == "parse":
            manual.events(*["a.png"] * items)
        else:
            manual.pipeline.lookup.begin([a_task() for _ in range(items)])

    add(999)
    assert not waiting.holds_back(manual.assignments[0])
    add(1)
    assert waiting.holds_back(manual.assignments[0])


SCORES = LabelScores(np.array([0], np.int32), np.array([0.75], np.float32))


def loaded() -> LoadedTask:
    task, known = a_task(), annotation()
    return LoadedTask(task, known, Fetched(task.job, known.sha256, "etag", None, "", 3, None, 100))


def test_the_last_computed_and_committed_results_reach_the_cache_after_the_threads_end() -> None:
    manual, task = ManualPipeline(), complete(results={"tags": SCORES})
    manual.pipeline.lookup.committed([CacheWrite(values={"told": b"committed"})])
    manual.pipeline.lookup.keep(task)
    assert manual.cache.lookup(["told"]) == [None]
    manual.pipeline.lookup.wind_up()
    assert manual.cache.lookup(["told"]) == [b"committed"]
    again = complete()
    KnownResults(manual.cache, make_roles({"tagger": TAGGER})).contents([again])
    assert again.annotation.hits == {"tags"}


def test_a_computed_result_wakes_the_thread_only_if_an_equal_image_waits() -> None:
    lookup = ManualPipeline().pipeline.lookup
    lone, leader = complete(results={"tags": SCORES}), complete(results={"tags": SCORES})
    equal = lookup._equal
    for task, flight in ((lone, "of one"), (leader, "of two")):
        equal._flights[task.task] = flight
        assert equal._leads(flight)
    assert not equal._leads("of two", loaded())
    thread = waiting(lookup.step, 600.0)
    lookup.keep(lone)
    assert not ends(thread, 0.05)
    lookup.keep(leader)
    assert ends(thread)


def test_a_batch_is_counted_by_why_it_left() -> None:
    """Batches have at most 8 images; an image without a number as its answer runs again alone."""
    with measuring(metrics.BATCHES) as measured:
        manual = ManualPipeline()
        keys = [f"{number}.png" for number in range(19)]
        manual.put(*keys)
        manual.handle(*keys)
        assert measured.by("left", metrics.BATCHES) == {"full": 2, "ready": 1}
        suspect = DecodedTask(a_task(), annotation(), FACTS, None, {TAGGER.transform: np.zeros((8, 8, 3), np.uint8)})
        suspect.task.alone = True
        manual.pipeline.annotate.begin(suspect)
        manual.pipeline.annotate.work()
        assert measured.by("left", metrics.BATCHES) == {"full": 2, "ready": 1, "alone": 1}


def test_images_with_invalid_answers_run_again_alone_and_others_keep_their_place() -> None:
    """Guard: `alone`; together, one image would be blamed for another's effect on the device."""

    class Glitching(ColourTagger):
        def forward(self, images: Sequence[Pixels]) -> Sequence[Any]:
            rows = list(super().forward(images))
            if len(self.batches) == 1:
                rows[0], rows[2] = rows[0] * np.nan, rows[2] * np.nan
            return rows

    manual = ManualPipeline(tagger=Glitching())
    keys = [f"{number}.png" for number in range(4)]
    manual.put(*keys)
    manual.handle(*keys)
    assert manual.tagger.batches == [4, 1, 1]
    assert sorted(manual.done) == [(0, offset, 0) for offset in range(4)]
    assert all(isinstance(read(outcome), EnrichedImage) for [outcome] in manual.done.values())
    assert not manual.in_flight
