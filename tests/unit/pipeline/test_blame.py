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


def test_twenty_failures_in_a_row_are_too_many() -> None:
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
        harness.give(f"{number}.png", POISON)
    with pytest.raises(Broken, match="made the model fail"):
        harness.run_to_its_end()
    assert len(harness.dead()) < 20
    assert len(harness.dead()) == len(harness.coordinates())
