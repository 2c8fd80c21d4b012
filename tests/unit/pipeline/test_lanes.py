"""Lanes: live work goes first, background work gets what is left, and what is begun is finished."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.harness import IN, Harness
from tests.support.manual_pipeline import BEHIND
from tests.support.tasks import record_at
from tests.unit.pipeline.commit.test_polling import _NoPublisher, _Source
from workers.pipeline.commit.polling import Poller
from workers.pipeline.flow.budget import Budget, Reservation
from workers.pipeline.flow.lanes import LIVE_IN_A_ROW
from workers.pipeline.options import WorkerOptions
from workers.pipeline.stages.stage import StageQueue
from workers.types import Assignment, Partition, Polled

LIVE, LATER = Partition(IN, 0), Partition(BEHIND, 0)
LANES = frozenset([BEHIND])


# ---- budgets --------------------------------------------------------------------------------------------------------


def reserved(budget: Budget, partition: Partition, *sizes: int) -> list[Reservation]:
    granted: list[Reservation] = []
    for size in sizes:
        budget.reserve(partition, size, granted.append)
    return granted


def divided(limit: int = 100, live: int = 1, background: int = 1) -> Budget:
    budget = Budget(limit, LANES)
    budget.divide(live, background)
    return budget


@pytest.mark.parametrize("live", [0, 1, 2])
@pytest.mark.parametrize("background", [1, 30])
def test_background_partitions_hold_at_most_half_however_many_they_are(live: int, background: int) -> None:
    budget = divided(1_000, live, background)
    for number in range(background):
        reserved(budget, Partition(BEHIND, number), *[5] * 300)
    assert 400 <= budget.used <= 500
    for number in range(live):
        reserved(budget, Partition(IN, number), *[5] * 300)
    assert live == 0 or 900 <= budget.used <= 1_000


def test_many_background_partitions_with_least_shares_leave_those_of_live_ones() -> None:
    budget = divided(16, 2, 30)
    for number in range(30):
        reserved(budget, Partition(BEHIND, number), 1)
    assert budget.used == 8


def test_live_reservations_are_granted_before_background_ones_that_wait_for_longer() -> None:
    budget = divided()
    held = reserved(budget, LIVE, *[25] * 3)
    begun = reserved(budget, LATER, *[25] * 3)
    assert len(begun) == 1
    late = reserved(budget, LIVE, 25)
    held[2].release()
    assert (len(late), len(begun)) == (1, 1)
    late[0].release()
    assert len(begun) == 2


def test_a_background_reservation_takes_no_room_that_a_larger_live_one_waits_for() -> None:
    budget = divided()
    reserved(budget, LIVE, 25, 30)
    assert not reserved(budget, LIVE, 40)
    small = [reserved(budget, LATER, 10) for _ in range(3)]
    assert [len(each) for each in small] == [1, 1, 0], "it has its shares"


@pytest.mark.parametrize("size", [20, 40, 120])
def test_begun_background_work_gets_its_memory_under_a_live_load_that_never_ends(size: int) -> None:
    """Guard: 120 is larger than the budget, and needs the pool for itself."""
    budget, waiting, later = divided(), list[Reservation](), list[Reservation]()
    for _ in range(30):
        budget.reserve(LIVE, 10, waiting.append)
    for _ in range(2):
        budget.reserve(LATER, size, later.append)
    for turns in range(20 * LIVE_IN_A_ROW):
        if len(later) == 2:
            break
        for reservation in later:
            reservation.release()
        budget.reserve(LIVE, 10, waiting.append)
        waiting[turns].release()
    assert len(later) == 2
    assert turns >= LIVE_IN_A_ROW or size == 20, "live reservations that waited went first"


SIZES = st.sampled_from((1, 7, 12, 25, 26, 50, 51, 200))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), SIZES, st.booleans()), max_size=60))
def test_everything_is_granted_in_the_end_and_the_limit_holds(asked: list[tuple[int, int, int, int, bool]]) -> None:
    budget, granted = divided(), list[Reservation]()
    for live, background, number, size, release in asked:
        budget.divide(live, background)
        partition = Partition(BEHIND if number % 2 else IN, number)
        budget.reserve(partition, size, granted.append)
        if release and granted:
            granted[0].release()
        largest = max((each.size for each in granted), default=0)
        assert budget.used <= 100 + max(0, largest - 50)
    while budget.waiting:
        before = budget.waiting
        for reservation in list(granted):
            reservation.release()
        assert budget.waiting < before
    assert len(granted) == len(asked)


# ---- admission ------------------------------------------------------------------------------------------------------


class Polling:
    """A poll thread with one live and some background partitions."""

    def __init__(self, background: int = 1, **bounds: Any) -> None:
        self.source = _Source()
        opening, opened = StageQueue[Assignment](), StageQueue[tuple[Assignment, int]]()
        bounds["background"] = LANES
        options = WorkerOptions(output_topic="out", dead_letter_topic="dead", **bounds)
        self.pipeline: Any = Harness().worker(**bounds).make_pipeline(_NoPublisher())  # type: ignore[arg-type]
        self.poller = Poller(self.source, self.pipeline, options, opening, opened)  # type: ignore[arg-type]
        self.live = Assignment(LIVE, "m")
        self.later = [Assignment(Partition(BEHIND, number), "m") for number in range(background)]
        self.source.next.append(Polled((), (self.live, *self.later)))
        self.poller.step()
        opened.put(*((assignment, 0) for assignment in opening.take(99)))
        self.poller.step()
        self._offsets = dict.fromkeys([self.live, *self.later], 0)

    def come(self, assignment: Assignment, count: int, size: int = 2) -> None:
        first = self._offsets[assignment]
        self._offsets[assignment] += count
        records = [record_at(assignment, offset, b"x" * size) for offset in range(first, first + count)]
        self.source.next.append(Polled(tuple(records), ()))

    def admitted(self) -> int:
        """Background records that this turn of the thread admits."""
        self.poller.step()
        return len(self.pipeline.parse.entries.background.take(9_999))

    def wait_in(self, place: str, count: int = 1) -> Callable[[], None]:
        """Let live images be in this place, until the returned function is called."""
        progress = self.pipeline.progress
        progress._counts[place] += count
        return lambda: progress._counts.update({place: -count})


@pytest.mark.parametrize("place", ["lookup", "wait-fetch", "wait-inspect", "wait-decode", "wait-device"])
def test_a_background_record_waits_while_a_live_image_does_also_the_first_of_its_partition(place: str) -> None:
    polling = Polling()
    leave = polling.wait_in(place)
    polling.come(polling.later[0], 3)
    assert polling.admitted() == 0
    assert not polling.poller.idle
    leave()
    assert polling.admitted() == 3
    assert polling.poller.idle


@pytest.mark.parametrize("place", ["wait-store", "wait-equal", "wait-caption", "fetch", "annotate"])
def test_it_does_not_wait_for_live_images_that_wait_for_others_or_are_worked_on(place: str) -> None:
    polling = Polling()
    polling.wait_in(place, 50)
    polling.come(polling.later[0], 3)
    assert polling.admitted() == 3


def test_live_images_wait_when_more_of_them_are_decoded_than_there_are_decoders() -> None:
    polling = Polling(decoders=4)
    polling.wait_in("decode", 4)
    polling.come(polling.later[0], 1)
    assert polling.admitted() == 1
    polling.wait_in("inspect", 1)
    polling.come(polling.later[0], 1)
    assert polling.admitted() == 0


def test_live_records_are_admitted_first_and_few_background_ones_with_them() -> None:
    polling = Polling()
    polling.come(polling.later[0], 1_000)
    polling.poller._background_left = 0
    polling.source.next[-1] = Polled(
        (*polling.source.next[-1].records, *(record_at(polling.live, offset) for offset in range(100))), ()
    )
    assert polling.admitted() == 32
    assert len(polling.pipeline.parse.entries) == 100
    assert polling.admitted() == 256


def test_background_partitions_share_the_images_ahead_of_one_partition() -> None:
    polling = Polling(background=4, jobs_ahead=100)
    for later in polling.later:
        polling.come(later, 80)
    polling.come(polling.live, 300)
    assert sum(polling.admitted() for _ in range(6)) == 100
    assert len(polling.pipeline.parse.entries) == 100


def test_background_records_take_half_of_the_ledger_and_of_the_polled_bytes() -> None:
    polling = Polling(ledger_bytes=200_000, polled_bytes=400_000)
    polling.come(polling.later[0], 10, 20_000)
    polling.admitted()
    polling.admitted()
    assert polling.pipeline.ledger.bytes == pytest.approx(110_000, rel=0.2)
    assert not polling.source.paused
    polling.come(polling.later[0], 6, 20_000)
    polling.admitted()
    assert polling.source.paused == {LATER}
    polling.come(polling.live, 3, 20_000)
    polling.admitted()
    assert len(polling.pipeline.parse.entries) == 3


def test_what_waits_of_an_ended_background_partition_is_dropped_at_once() -> None:
    polling = Polling()
    polling.wait_in("wait-decode")
    polling.come(polling.later[0], 3)
    polling.admitted()
    polling.later[0].end()
    polling.poller.step()
    assert polling.poller.idle


def test_a_drain_drops_background_records_that_wait() -> None:
    polling = Polling()
    polling.wait_in("wait-decode")
    polling.come(polling.later[0], 3)
    polling.admitted()
    polling.poller.stop_admitting()
    polling.poller.step()
    assert polling.poller.idle
