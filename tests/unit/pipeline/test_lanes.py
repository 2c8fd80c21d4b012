"""Lanes: live work goes first, background work gets what is left, and what is begun is finished."""

import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.support.harness import BUCKET, GROUP, IN, ColourTagger, Harness, png
from tests.support.manual_pipeline import BEHIND, ManualPipeline
from tests.support.remote import PlayedCaptioner
from tests.support.tasks import record_at
from tests.support.waiting import ends, eventually, waiting
from tests.unit.pipeline.commit.test_ledger import FOR_EVER, admit, finish, taken
from tests.unit.pipeline.commit.test_polling import Polling as AnyPolling
from tests.unit.pipeline.flow.test_budget import reserved
from tests.unit.pipeline.test_commit_pace import _World
from workers.lanes import LIVE_IN_A_ROW
from workers.pipeline.commit.ledger import Ledger
from workers.pipeline.flow.budget import Budget, ExclusiveGate, Reservation
from workers.pipeline.flow.byte_turns import ByteTurns
from workers.pipeline.stages.stage import LaneQueue
from workers.types import Assignment, Partition, Polled

LIVE, LATER = Partition(IN, 0), Partition(BEHIND, 0)
LANES = frozenset([BEHIND])


# ---- budgets --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("size", [40, 45, 120])
def test_small_images_of_another_background_partition_do_not_starve_a_large_one(size: int) -> None:
    """Guard: those that its share holds took the background's turns, one after the other."""
    budget, live, small = divided(background=2), list[Reservation](), list[Reservation]()
    other = Partition(BEHIND, 1)
    for _ in range(30):
        budget.reserve(LIVE, 10, live.append)
    for _ in range(3):
        budget.reserve(other, 5, small.append)
    large = reserved(budget, LATER, size)
    for turn in range(20 * LIVE_IN_A_ROW):
        budget.reserve(LIVE, 10, live.append)
        live[turn].release()
        if turn % 2 == 0:
            budget.reserve(other, 5, small.append)
            small[turn // 2].release()
    assert large


def test_live_images_enter_before_background_suspects_and_every_ninth_is_one() -> None:
    gate, entered, left = ExclusiveGate(), list[str](), 0
    gate.enter(lambda: entered.append("first"), alone=True)
    for _ in range(3):
        gate.enter(lambda: entered.append("suspect"), alone=True, background=True)
    for _ in range(30):
        gate.enter(lambda: entered.append("live"), alone=False)
    while left < len(entered):
        left += 1
        gate.leave()
    assert [place for place, each in enumerate(entered) if each == "suspect"] == [9, 18, 27]


# ---- admission ------------------------------------------------------------------------------------------------------


class Polling(AnyPolling):
    """A poll thread with one live and some background partitions."""

    def __init__(self, background: int = 1, **bounds: Any) -> None:
        self.later = [Assignment(Partition(BEHIND, number), "m") for number in range(background)]
        super().__init__(*self.later, background=LANES, **bounds)

    def admitted(self, turns: int = 1) -> int:
        """Background records that so many turns of the thread admit."""
        for _ in range(turns):
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


def test_no_more_background_images_are_under_way_than_a_few_batches_and_fetches() -> None:
    polling = Polling(fetch_threads=8)
    polling.come(polling.later[0], 8)
    progress = polling.pipeline.progress
    progress._background["decode"] = 8
    assert polling.admitted() == 0
    progress._background["wait-store"] = 1
    progress._background["decode"] = 7
    assert polling.admitted() == 8
    polling.come(polling.later[0], 6)
    polling.pipeline.annotate._background_cuts[0].images = 3
    progress._background["decode"] = 24
    assert polling.admitted() == 0
    progress._background["decode"] = 23
    assert polling.admitted() == 6


def test_live_records_are_admitted_first_and_few_background_ones_with_them() -> None:
    polling = Polling()
    polling.come(polling.later[0], 1_000)
    polling.poller._background_left = 0
    polling.source.next[-1] = Polled(
        (*polling.source.next[-1].records, *(record_at(polling.live, offset) for offset in range(100))), ()
    )
    assert polling.admitted() == 2
    assert len(polling.pipeline.parse.entries) == 100
    assert polling.admitted() == 8


def test_background_partitions_share_the_images_ahead_of_one_partition() -> None:
    polling = Polling(background=4, jobs_ahead=100)
    polling.source.next.append(
        Polled(tuple(record_at(later, offset) for later in polling.later for offset in range(80)), ())
    )
    assert polling.admitted(30) == pytest.approx(100, abs=4)
    polling = Polling(background=4, jobs_ahead=100)
    polling.come(polling.later[0], 200)
    assert polling.admitted(30) == 100
    polling.come(polling.later[1], 80)
    polling.come(polling.live, 300)
    assert polling.admitted(30) == 25
    assert len(polling.pipeline.parse.entries) == 100


def test_background_records_take_half_of_the_ledger_and_of_the_polled_bytes() -> None:
    polling = Polling(ledger_bytes=200_000, polled_bytes=400_000)
    polling.come(polling.later[0], 10, 20_000)
    polling.admitted(9)
    assert polling.pipeline.ledger.bytes == pytest.approx(110_000, rel=0.2)
    assert not polling.source.paused
    polling.come(polling.later[0], 6, 20_000)
    polling.admitted()
    assert polling.source.paused == {LATER}
    polling.come(polling.live, 3, 20_000)
    polling.admitted()
    assert len(polling.pipeline.parse.entries) == 3


@pytest.mark.parametrize("drains", [False, True])
def test_background_records_that_wait_are_dropped_with_their_partition_and_by_a_drain(drains: bool) -> None:
    polling = Polling()
    polling.wait_in("wait-decode")
    polling.come(polling.later[0], 3)
    polling.admitted()
    if drains:
        polling.poller.admitting = False
    else:
        polling.later[0].end()
    polling.poller.step()
    assert polling.poller.idle


def test_a_round_has_all_live_partitions_and_then_a_short_turn_of_one_background_partition() -> None:
    turns = ByteTurns[str](lambda _: True)
    for number in range(2):
        for topic, background in ((BEHIND, True), (IN, False)):
            assignment = Assignment(Partition(topic, number), "m", background)
            for _ in range(20):
                turns.add(assignment, str(assignment.partition), 2_000)
    rounds = [Counter(turns.round()) for _ in range(7)]
    assert rounds[0] == {f"{IN}:0": 20, f"{IN}:1": 20, f"{BEHIND}:0": 4}
    assert rounds[1:3] == [{f"{BEHIND}:1": 4}, {f"{BEHIND}:0": 4}]


# ---- queues ---------------------------------------------------------------------------------------------------------


def lanes(behind: int, **options: Any) -> ManualPipeline:
    """One live partition and one background one with so many different images in it."""
    manual = ManualPipeline(2, 1, **options)
    manual.put(*(f"{number}" for number in range(behind)))
    manual.events(*(f"{number}" for number in range(behind)), partition=1)
    return manual


def keys(queue: Any) -> list[str]:
    return [each.event.key for each in queue.take(9_999)]


def test_a_live_record_is_parsed_before_background_ones_that_wait_for_longer() -> None:
    manual = lanes(400)
    manual.pipeline.parse.work()
    events = manual.pipeline.lookup.events
    assert isinstance(events, LaneQueue)
    assert 1 < len(keys(events.background)) <= 60
    manual.events("live")
    manual.pipeline.parse.work()
    assert keys(events) == ["live"]


def test_live_images_are_looked_up_before_background_ones_and_again_between_few_of_them() -> None:
    manual, order = lanes(100), list[str]()
    lookup = manual.pipeline.lookup
    while len(manual.pipeline.parse.unread) or not order:
        manual.pipeline.parse.work()
        order = ["parsed"]
    order.clear()

    def fetch(task: Any) -> None:
        order.append(task.event.key)
        if len(order) == 20:
            manual.events("live")
            manual.pipeline.parse.work()
        task.close("dropped")

    lookup.fetch = fetch
    manual.events("first")
    manual.pipeline.parse.work()
    while len(lookup):
        lookup.work()
    assert order[0] == "first"
    assert order.index("live") == 33


class _Timed(ColourTagger):
    """Takes its time on the test's clock: 20 ms an image."""

    each_s = 0.02
    max_batch = 64

    def forward(self, images: Any) -> Any:
        self.clock.advance(self.each_s * len(images))
        return super().forward(images)

    clock: Any


def on_device(behind: int, each_s: float = 0.02, **options: Any) -> tuple[ManualPipeline, _Timed]:
    tagger = _Timed()
    manual = lanes(behind, tagger=tagger, **options)
    tagger.clock, tagger.each_s = manual.clock, each_s
    while manual.pipeline.progress.counts()["wait-device"] < behind:
        manual.pipeline.parse.work()
        manual.pipeline.lookup.work()
    return manual, tagger


@pytest.mark.parametrize(("each_s", "most"), [(0.02, 2), (0.004, 12), (0.2, 1)])
def test_a_background_batch_holds_the_device_for_fifty_milliseconds_or_one_image(each_s: float, most: int) -> None:
    manual, tagger = on_device(60, each_s)
    while manual.in_flight.get("wait-device"):
        manual.pipeline.annotate.work()
    assert max(tagger.batches) == most
    assert tagger.batches[-2] == most


def test_after_a_slow_batch_the_next_ones_are_as_small_as_it_should_have_been() -> None:
    manual, tagger = on_device(60, 0.01)
    while not tagger.batches or tagger.batches[-1] < 5:
        manual.pipeline.annotate.work()
    tagger.each_s = 0.05
    manual.pipeline.annotate.work()
    tagger.each_s, before = 0.01, len(tagger.batches)
    while manual.in_flight.get("wait-device"):
        manual.pipeline.annotate.work()
    assert tagger.batches[before : before + 22] == [1] * 20 + [2, 4]


def test_while_live_images_wait_for_the_device_every_ninth_batch_is_a_background_one() -> None:
    manual, tagger = on_device(3)
    for safe in manual.pipeline.annotate.self_tests[0].annotator.safe.values():
        safe.size = 5
    keys = [f"live{each}" for each in range(100)]
    manual.give(*keys)
    while manual.pipeline.progress.counts()["wait-device"] < 103:
        manual.pipeline.parse.work()
        manual.pipeline.lookup.work()
    while len(manual.pipeline.annotate):
        manual.pipeline.annotate.work()
    assert [number for number, images in enumerate(tagger.batches) if images < 5] == [8, 17]


@pytest.mark.parametrize(("each_s", "batches"), [(0.2, [1, 1, 1]), (0.02, [1, 2, 1])])
def test_a_due_self_test_makes_no_background_batch_longer(each_s: float, batches: list[int]) -> None:
    manual, tagger = on_device(9, each_s, self_test_s=60)
    manual.pipeline.annotate.work()
    manual.clock.advance(100)
    manual.pipeline.annotate.work()
    manual.pipeline.annotate.work()
    assert tagger.batches == batches


def test_a_live_image_does_not_wait_for_an_equal_one_in_the_background_but_for_a_live_one() -> None:
    manual = ManualPipeline(3, 1)
    for key in ("behind", "live", "too"):
        manual.store.put(BUCKET, key, png((1, 2, 3)))
    manual.events("behind", partition=2)
    manual.pipeline.parse.work()
    manual.pipeline.lookup.work()
    manual.events("live")
    manual.events("too", partition=1)
    manual.pipeline.parse.work()
    while len(manual.pipeline.lookup):
        manual.pipeline.lookup.work()
    assert manual.in_flight == {"wait-device": 2, "wait-equal": 1}
    manual.turn()
    assert len(manual.done) == 3
    assert sum(manual.tagger.batches) == 2


# ---- transactions ---------------------------------------------------------------------------------------------------


def test_a_transaction_has_live_outcomes_alone_and_every_ninth_has_background_ones() -> None:
    ledger, live, later = Ledger(), Assignment(LIVE, "m"), Assignment(LATER, "m", True)
    for assignment in (later, live):
        ledger.open(assignment, 0)
    for offset in range(30):
        finish(ledger, admit(ledger, later, offset))
        finish(ledger, admit(ledger, live, offset))
    order = []
    for _ in range(35):
        ready = taken(ledger, outcomes=1)
        assert {entry.record.assignment for entry in ready.entries} == set(ready.transaction.offsets)
        order.append(ready.background)
        ledger.settle(ready)
    assert [number for number, background in enumerate(order) if background] == [8, 17, 26, 33, 34]
    assert ledger.bytes > 0
    while ready := ledger.ready(500, 10_000):  # type: ignore[assignment]
        ledger.settle(ready)
    assert (ledger.bytes, ledger.records, ledger.under_way) == (0, 0, 0)


def test_live_outcomes_wait_for_no_background_record_in_progress_and_end_the_wait_of_one() -> None:
    world = _World()
    world.pipeline.ledger.open(later := Assignment(LATER, "m", True), 0)
    world.done(*world.begin())
    assert world.step() == [1]
    behind = [admit(world.pipeline.ledger, later, offset) for offset in range(3)]
    world.done(*world.begin())
    assert world.step() == [1], "the background records in progress would not join it"
    world.done(behind[0])
    assert world.step() == [1]
    world.done(behind[1])
    thread = waiting(partial(world.pipeline.ledger.wait_for_more, background=True), FOR_EVER, 99)
    world.done(*world.begin())
    assert ends(thread)
    assert world.step() == [1]


def test_the_last_live_outcome_ends_the_wait_for_more_whatever_is_in_progress_in_the_background() -> None:
    ledger, live, later = Ledger(), Assignment(LIVE, "m"), Assignment(LATER, "m", True)
    for assignment in (live, later):
        ledger.open(assignment, 0)
    first, last = (admit(ledger, live, offset) for offset in range(2))
    admit(ledger, later, 0)
    finish(ledger, first)
    thread = waiting(ledger.wait_for_more, FOR_EVER, 99)
    finish(ledger, last)
    assert ends(thread)


def test_the_captioner_elsewhere_is_asked_about_live_images_first_and_told_the_lane() -> None:
    captioner = PlayedCaptioner()
    manual = lanes(2, remote=captioner)
    stages = manual.pipeline.stages

    def come(images: int) -> None:
        while manual.in_flight.get("wait-caption", 0) < images:
            for stage in stages[:-1]:
                stage.step(0)

    come(2)
    manual.give("live")
    come(3)
    stages[-1].step(0)
    assert [(asked.partition.topic, asked.background) for asked in captioner.asked] == [
        (IN, False),
        *[(BEHIND, True)] * 2,
    ]


def test_images_of_an_ended_partition_say_nothing_about_the_size_of_batches() -> None:
    manual, tagger = on_device(60, 0.2)
    manual.assignments[1].end()
    while len(manual.pipeline.annotate):
        manual.pipeline.annotate.work()
    assert (tagger.batches, manual.pipeline.annotate._background_cuts[0].images) == ([], 1)


# ---- a whole worker -------------------------------------------------------------------------------------------------


class _Slow(ColourTagger):
    def forward(self, images: Any) -> Any:
        time.sleep(0.004 * len(images))
        return super().forward(images)


def test_live_events_overtake_a_backfill_and_every_event_has_its_outcome_once() -> None:
    harness = Harness(1)
    harness.tagger = _Slow()
    harness.broker.create_topic(BEHIND, 3)
    harness.topics = [IN, BEHIND]
    for number in range(240):
        harness.put(f"{number}", (number, 9, 9))
        harness.broker.append(BEHIND, number % 3, b"k", json.dumps(harness.event(f"{number}")).encode(), ())

    def committed(topic: str) -> int:
        return sum(offset for place, offset in harness.broker.committed(GROUP).items() if place.topic == topic)

    with harness.running(background=LANES):
        eventually(lambda: committed(BEHIND) > 10)
        for number in range(20):
            harness.give(f"live{number}", (9, number, 9))
        before = committed(BEHIND)
        eventually(lambda: committed(IN) == 20)
        assert committed(BEHIND) - before < 60
        eventually(lambda: committed(BEHIND) == 240)
    found = [(item.event.topic, item.event.partition, item.event.offset) for item in harness.outputs()]
    assert len(found) == len(set(found)) == 260
