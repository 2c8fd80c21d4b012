"""The times of images by stage: of all where there are few, of a bounded share where there are many."""

from __future__ import annotations

from tagstream_testing.memory import ManualClock
from tests.support.harness import Harness
from tests.support.measured import measuring
from tests.support.tasks import a_task
from workers import metrics
from workers.pipeline.stages.times import EACH_S, StageTimes
from workers.pipeline.task import Task


def timed(**stages: float) -> Task:
    task = a_task()
    for stage, seconds in stages.items():
        task.took(stage, seconds)
    return task


def test_every_stage_that_an_image_passed_is_measured_and_the_device_by_batches_alone() -> None:
    harness = Harness()
    harness.put("0.png", (255, 0, 0))
    with measuring(metrics.STAGE_SECONDS) as measured, harness.running():
        harness.send(harness.event("0.png"))
        harness.settled()
        stages = measured.by("stage", metrics.STAGE_SECONDS)
    assert {"lookup", "fetch", "inspect", "decode", "wait-device", "annotate", "finish"} <= stages.keys()
    assert set(stages.values()) == {1}


def test_of_many_images_some_are_measured_spread_evenly() -> None:
    with measuring(metrics.STAGE_SECONDS) as measured:
        times = StageTimes(ManualClock())
        times.record([timed(**{f"fetch-{number}": 1.0}) for number in range(100)])
        chosen = sorted(int(stage.removeprefix("fetch-")) for stage in measured.by("stage", metrics.STAGE_SECONDS))
    assert chosen == list(range(0, 100, 5))


def test_so_many_are_measured_in_a_second_and_no_more_however_often_some_end() -> None:
    clock = ManualClock()
    with measuring(metrics.STAGE_SECONDS) as measured:
        times = StageTimes(clock)
        for _ in range(1_000):
            times.record([timed(fetch=1.0) for _ in range(3)])
            clock.advance(0.001)
        assert measured.by("stage", metrics.STAGE_SECONDS)["fetch"] <= 2 * EACH_S


def test_no_images_are_no_measurement() -> None:
    with measuring(metrics.STAGE_SECONDS) as measured:
        StageTimes(ManualClock()).record([])
        assert measured.by("stage", metrics.STAGE_SECONDS) == {}
