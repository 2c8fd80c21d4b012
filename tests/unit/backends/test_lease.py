"""When what a service gives for a time is asked for anew."""

from __future__ import annotations

import pytest

from tagstream_testing.memory import ManualClock
from workers.backends.lease import Lease


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def lease(clock: ManualClock) -> Lease:
    return Lease(10.0, clock.monotonic)


def states(lease: Lease, clock: ManualClock, *until_s: float) -> list[tuple[bool, bool]]:
    """Whether it is due and whether it is valid, at each of these seconds from now."""
    began, found = clock.monotonic(), []
    for second in until_s:
        clock.advance(began + second - clock.monotonic())
        found.append((lease.due, lease.valid))
    return found


def test_a_lease_that_was_never_granted_is_due_and_not_valid(lease: Lease) -> None:
    assert (lease.due, lease.valid) == (True, False)


def test_a_lease_is_due_after_four_fifths_of_its_life_and_valid_until_its_end(lease: Lease, clock: ManualClock) -> None:
    lease.granted(100.0)
    assert states(lease, clock, 0, 79, 80, 99, 100) == [
        (False, True),
        (False, True),
        (True, True),
        (True, True),
        (True, False),
    ]


@pytest.mark.parametrize("life_s", [-50.0, 0.0, 9.0])
def test_a_life_that_is_too_short_to_use_counts_as_the_shortest(
    lease: Lease, clock: ManualClock, life_s: float
) -> None:
    """Guard: a service with another clock, or with lives of a second, would be asked for every request."""
    lease.granted(life_s)
    assert states(lease, clock, 7, 8, 9, 10) == [(False, True), (True, True), (True, True), (True, False)]


def test_after_a_failure_it_is_not_due_for_a_second_and_as_valid_as_it_was(lease: Lease, clock: ManualClock) -> None:
    lease.granted(100.0)
    clock.advance(99)
    lease.failed()
    assert states(lease, clock, 0, 0.5, 1) == [(False, True), (False, True), (True, False)]


def test_it_can_be_made_due_sooner_and_never_later(lease: Lease, clock: ManualClock) -> None:
    lease.granted(100.0)
    lease.ask_within(10.0)
    lease.ask_within(20.0)
    assert states(lease, clock, 9, 10) == [(False, True), (True, True)]
