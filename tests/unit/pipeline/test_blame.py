"""Who is blamed for a failure: the store or the object, the device or one image."""

import itertools
from typing import get_args

import pytest

from tests.support.harness import POISON, Harness
from workers.errors import Broken, Fault
from workers.pipeline.annotator import Ceiling
from workers.pipeline.stages.fetch import Evidence, blame

PATIENCE_S = 60.0


def known(
    fault: Fault, *, before: Fault | None = None, others_read: bool = True, failing_s: float = 0.0, next_s: float = 0.0
) -> Evidence:
    return Evidence(fault, "HTTP 400 Code", before, others_read, failing_s, next_s)


ALL = [
    known(fault, before=before, others_read=others, failing_s=failing_s)
    for fault, before, others, failing_s in itertools.product(
        get_args(Fault), (None, *get_args(Fault)), (True, False), (0.0, 1e6)
    )
]


def test_nothing_is_blamed_for_its_first_failure() -> None:
    assert all(blame(each, PATIENCE_S) is None for each in ALL if each.before is None)


def test_an_object_is_blamed_only_after_another_was_read_or_for_a_fault_of_its_own() -> None:
    alone = [each for each in ALL if not each.others_read and blame(each, PATIENCE_S) is not None]
    assert {(each.fault, each.before) for each in alone} == {("object", "object")}


@pytest.mark.parametrize("fault", ["service", "too-slow", "access"])
def test_what_may_pass_is_blamed_when_the_next_answer_would_come_too_late(fault: Fault) -> None:
    assert blame(known(fault, before=fault, failing_s=54.0, next_s=5.9), PATIENCE_S) is None
    rejected = blame(known(fault, before=fault, failing_s=54.0, next_s=6.0), PATIENCE_S)
    assert rejected is not None
    assert rejected.reason == ("fetch-too-slow" if fault == "too-slow" else "unreadable")
    assert "HTTP 400 Code" in rejected.detail


@pytest.mark.parametrize("fault", ["forbidden", "refused", "object"])
def test_a_refusal_is_believed_at_its_second_time(fault: Fault) -> None:
    rejected = blame(known(fault, before="refused"), PATIENCE_S)
    assert rejected is not None
    assert rejected.reason == ("forbidden" if fault == "forbidden" else "unreadable")
    assert "HTTP 400 Code" in rejected.detail
    assert blame(known(fault, before="service"), PATIENCE_S) is None, "it is the first of its kind"


def test_every_failure_among_others_that_are_read_is_blamed_in_the_end() -> None:
    assert all(blame(each, PATIENCE_S) for each in ALL if each.before and each.others_read and each.failing_s)


BLAMED, CAME_THROUGH = True, False


@pytest.mark.parametrize(
    ("ceiling", "fine", "said"),
    [
        (Ceiling(run=20), [BLAMED] * 19, "20 of the last 20"),
        (Ceiling(run=20), [*[BLAMED] * 19, CAME_THROUGH, *[BLAMED] * 19], "39 of the last 40"),
        (Ceiling(run=20, share=0.5, window=4), [BLAMED, CAME_THROUGH] * 2 + [BLAMED], "3 of the last 4"),
        (Ceiling(run=20, share=0.5, window=100), [CAME_THROUGH, *[BLAMED] * 19], "20 of the last 21"),
    ],
    ids=["in a row", "one ends the row", "a share", "few have no share yet"],
)
def test_too_many_failures_in_a_row_or_among_the_last_ones_are_the_models(
    ceiling: Ceiling, fine: list[bool], said: str
) -> None:
    for blamed in fine:
        ceiling.note(blamed)
    with pytest.raises(Broken, match=f"{said} images made the model fail"):
        ceiling.note(BLAMED)


@pytest.mark.parametrize("max_batch", [1, 8])
def test_a_device_that_fails_on_all_but_the_known_good_image_ends_the_worker(harness: Harness, max_batch: int) -> None:
    """Guard: Ceiling.note. Without it the whole topic would be dead-lettered."""
    harness.tagger.max_batch = max_batch
    for number in range(60):
        harness.give(f"{number}.png", POISON)
    with pytest.raises(Broken, match="made the model fail"):
        harness.run_to_its_end()
    assert len(harness.dead()) < 20
    assert len(harness.dead()) == len(harness.coordinates())
