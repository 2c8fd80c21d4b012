"""Batches start without a timer, and a failing batch is halved to the failing item."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.errors import Broken
from workers.pipeline.annotator import SafeBatch, run_halving


@given(st.lists(st.booleans(), max_size=40))
def test_only_the_failing_items_fail_and_every_item_has_its_own_answer(failing: list[bool]) -> None:
    def step(items: Sequence[tuple[int, bool]]) -> list[int]:
        if any(bad for _, bad in items):
            raise RuntimeError("bad")
        return [number * 10 for number, _ in items]

    answers = run_halving(step, list(enumerate(failing)), lambda items, error: None)
    assert [isinstance(answer, RuntimeError) for answer in answers] == failing
    assert all(answer == number * 10 for number, answer in enumerate(answers) if not failing[number])


def test_every_failing_call_is_reported_with_its_items() -> None:
    told: list[int] = []

    def step(items: Sequence[int]) -> list[int]:
        if 3 in items:
            raise RuntimeError("three")
        return list(items)

    run_halving(step, [1, 2, 3, 4], lambda items, error: told.append(len(items)))
    assert told == [4, 2, 1]


def test_a_step_that_blames_no_item_is_not_halved() -> None:
    told: list[int] = []

    def step(items: Sequence[int]) -> list[int]:
        raise Broken("the device is gone")

    with pytest.raises(Broken, match="gone"):
        run_halving(step, [1, 2], lambda items, error: told.append(len(items)))
    assert told == []


def test_both_halves_of_a_batch_that_run_out_of_memory_halve_the_safe_size_once() -> None:
    safe = SafeBatch(16)
    for images in (16, 8, 8):
        safe.ran_out_of_memory(images)
    assert safe.size == 4


def test_quiet_batches_count_from_the_last_trouble_or_growth_one_by_one() -> None:
    safe = SafeBatch(16, quiet=3)
    sizes = []
    for out_of_memory in (16, 0, 0, 8, 0, 0, 0, 0, 0, 0):
        if out_of_memory:
            safe.ran_out_of_memory(out_of_memory)
        else:
            safe.ran(safe.size)
        sizes.append(safe.size)
    assert sizes == [8, 8, 8, 4, 4, 4, 8, 8, 8, 16]


def test_a_model_that_found_no_batch_safe_gets_one_image_at_a_time() -> None:
    assert SafeBatch(0).size == 1


def test_memory_that_runs_out_halves_the_safe_size_and_full_quiet_batches_grow_it_back() -> None:
    safe = SafeBatch(16, quiet=3)
    safe.ran_out_of_memory(16)
    assert safe.size == 8
    safe.ran_out_of_memory(3)
    assert safe.size == 1
    for _ in range(3):
        safe.ran(1)
    assert safe.size == 2
    for _ in range(9):
        safe.ran(1)
    assert safe.size == 2, "half-empty batches prove nothing"
    for _ in range(9):
        safe.ran(16)
    assert safe.size == 16
