"""What the worker asks of a stage: its bounds, its limits, and whether it stands still."""

from __future__ import annotations

from collections.abc import Sequence

from tests.unit.pipeline.manual_pipeline import ManualPipeline
from workers.pipeline.progress import WORKING
from workers.pipeline.stages.stage import DeviceStage, QueueStage
from workers.testing.memory import ManualClock


def test_every_kind_of_work_on_an_image_has_the_limit_of_one_stage() -> None:
    """Guard: a stage that states no limit may hang for ever."""
    stages = ManualPipeline().pipeline.stages
    assert sorted(name for stage in stages for name in stage.limits_s) == sorted(WORKING)


def test_every_bound_is_shared_among_the_partitions() -> None:
    pipeline = ManualPipeline().pipeline
    for stage in pipeline.stages:
        stage.divide(4)
    assert all(budget._partitions == 4 for stage in pipeline.stages for budget in stage.budgets.values())
    assert {name for stage in pipeline.stages for name in stage.budgets} == {"encoded", "decoded"}
    assert pipeline.fetch.slots._partitions == 4


def test_a_queue_stage_takes_no_more_than_it_may_and_works_without_items_only_if_there_is_something() -> None:
    seen: list[list[int]] = []
    pending = [True]
    stage: QueueStage[int] = QueueStage(
        "t", lambda items: seen.append(list(items)), most=lambda: 2, anyway=lambda: pending[0]
    )
    for number in range(3):
        stage.queue.put(number)
    stage.step()
    stage.step()
    stage.queue.close()  # so that nothing waits
    stage.step()
    pending[0] = False
    stage.step()
    assert seen == [[0, 1], [2], []]


def test_a_batch_may_take_five_times_the_slowest_so_far_and_fifteen_seconds_at_least() -> None:
    clock = ManualClock()
    told: list[tuple[str | None, str | None, float]] = []

    def work(items: Sequence[float]) -> None:
        (seconds,) = items
        clock.advance(seconds)
        limit = stage.limits_s["annotate"]
        told.append((stage.stalled(clock.monotonic()), stage.stalled(clock.monotonic() + 1), limit))

    stage: DeviceStage[float] = DeviceStage(work, clock, 10.0, most=lambda: 1)
    for seconds in (15.0, 75.0):
        stage.queue.put(seconds)
        stage.step()
        assert stage.stalled(clock.monotonic() + 1_000) is None, "it is idle"
    assert told == [
        (None, "the device has worked on one batch for 16 s", 15.0),
        (None, "the device has worked on one batch for 76 s", 75.0),
    ]
