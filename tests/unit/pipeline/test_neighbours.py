"""Who waits for the object store, until when, what that holds back, and when nobody may ask."""

from __future__ import annotations

from schemas.image_event import ImageEvent
from workers.pipeline.breaker import OPENS_AFTER
from workers.pipeline.neighbours import Neighbours
from workers.vocabulary import Coordinates, Epoch, Job, Partition

HERE = Epoch(Partition("in", 0), "m")


def job(key: str, offset: int = 0) -> Job:
    event = ImageEvent(id=key, dialect="own", action="enrich", index=0, bucket="photos", key=key)
    return Job(Coordinates("in", 0, offset, 0), HERE, event)


def opened(now: float = 0.0) -> Neighbours[str]:
    """Different objects have failed in a row; each of those who asked waits for a second."""
    neighbours = Neighbours[str](first_pause_s=1.0, last_pause_s=8.0)
    for number in range(OPENS_AFTER):
        neighbours.failed("photos", f"key-{number}", f"waiter-{number}", now)
        neighbours.wait("photos", HERE, f"waiter-{number}", until=now + 1.0, tries=1)
    return neighbours


def test_waiters_come_out_when_their_time_has_come() -> None:
    neighbours = Neighbours[str]()
    neighbours.wait("photos", HERE, "late", until=30.0)
    neighbours.wait("photos", HERE, "soon", until=10.0)
    assert neighbours.due(9.9) == []
    assert neighbours.due(10.0) == ["soon"]
    assert neighbours.due(29.9) == []
    assert neighbours.due(30.0) == ["late"]


def test_an_epoch_is_held_back_while_something_of_it_waits_for_a_bucket_that_fails_and_no_other_is() -> None:
    neighbours = opened()
    elsewhere, regained = Epoch(Partition("in", 1), "m"), Epoch(Partition("in", 0), "m")
    neighbours.wait("others", elsewhere, "own fault", until=10.0)
    assert neighbours.holds_back(HERE)
    assert not neighbours.holds_back(regained)
    assert not neighbours.holds_back(elsewhere)
    neighbours.read("photos", None, 1.0, 1.0)
    assert not neighbours.holds_back(HERE), "those that wait on wait because of themselves"


def test_those_of_an_ended_epoch_can_be_fetched_out_before_their_time() -> None:
    neighbours = Neighbours[str]()
    ended = Epoch(Partition("in", 1), "m")
    neighbours.wait("photos", HERE, "ours", until=10.0)
    neighbours.wait("photos", ended, "theirs", until=10.0)
    ended.end()
    assert neighbours.leave_ended() == ["theirs"]
    assert not neighbours.holds_back(ended)
    assert neighbours.due(10.0) == ["ours"]


def test_a_read_counts_from_when_it_was_asked_for() -> None:
    neighbours = Neighbours[str]()
    assert not neighbours.has_read("photos", after=0.0)
    neighbours.read("photos", None, 50.0, 70.0)
    neighbours.answered("photos", 80.0)
    assert neighbours.has_read("photos", after=49.9)
    assert not neighbours.has_read("photos", after=50.0), "what was under way already says nothing"
    assert not neighbours.has_read("others", after=0.0)


def test_a_reference_is_an_object_that_was_read_and_is_another() -> None:
    neighbours = Neighbours[str]()
    assert neighbours.reference("photos", "bad") is None
    for number in range(5):
        neighbours.read("photos", job(f"good-{number}"), 1.0, 1.0)
    neighbours.read("photos", job("bad"), 1.0, 1.0)
    named = {found.event.key for _ in range(4) if (found := neighbours.reference("photos", "bad"))}
    assert named == {"good-3", "good-4"}, "of the last three"
    neighbours.forget("photos", job("good-3"))
    neighbours.forget("photos", job("good-4"))
    assert neighbours.reference("photos", "bad") is None


def test_a_reference_that_fails_lets_what_waits_be_asked_for_itself_next_time() -> None:
    """Guard: else references that all became unreadable would keep everybody waiting for ever."""
    neighbours = Neighbours[str]()
    neighbours.read("photos", job("good"), 1.0, 1.0)
    assert neighbours.reference("photos", "bad") is not None
    neighbours.reference_failed("photos", job("good"), "waiter", 2.0)
    assert neighbours.reference("photos", "bad") is None
    assert neighbours.reference("photos", "bad") is not None


def test_a_bucket_refuses_us_until_it_answers_or_nobody_waits_for_it() -> None:
    neighbours = Neighbours[str]()
    for end in (
        lambda: neighbours.read("photos", None, 1.0, 1.0),
        lambda: neighbours.answered("photos", 1.0),
        neighbours.leave_ended,
    ):
        neighbours.refused("photos", "correct the key")
        assert neighbours.refusals() == ["correct the key"]
        end()
        assert neighbours.refusals() == []


def test_one_object_that_fails_however_often_keeps_nobody_from_asking() -> None:
    neighbours = Neighbours[str]()
    for _ in range(100):
        neighbours.failed("photos", "bad", "waiter", 0.0)
    assert neighbours.may_ask("photos", "another")
    assert neighbours.closed("photos")


def test_an_answer_between_them_makes_failures_no_row() -> None:
    neighbours = Neighbours[str]()
    for number in range(100):
        neighbours.failed("photos", f"bad-{number}", "waiter", 0.0)
        if number % 2:
            neighbours.answered("photos", 0.0)
    assert neighbours.closed("photos")


def test_after_different_objects_failed_in_a_row_nobody_may_ask_but_a_probe() -> None:
    neighbours = opened()
    assert not neighbours.may_ask("photos", "fresh")
    assert neighbours.may_ask("others", "fresh")
    assert neighbours.breakers() == {"closed": 0, "open": 1, "half-open": 0}
    assert neighbours.due(0.4) == [], "a pause comes first"
    [probe] = neighbours.due(1.0)
    assert probe in {f"waiter-{number}" for number in range(OPENS_AFTER)}
    assert neighbours.may_ask("photos", probe)
    assert neighbours.due(1.1) == [], "one at a time"
    assert neighbours.breakers() == {"closed": 0, "open": 0, "half-open": 1}


def test_pauses_between_probes_grow_and_stay_bounded() -> None:
    neighbours, now, gaps = opened(), 0.0, []
    for _ in range(8):
        asked = now
        while not (found := neighbours.due(now)):
            now += 0.01
        gaps.append(now - asked)
        neighbours.failed("photos", found[0], found[0], now)
        neighbours.wait("photos", HERE, found[0], until=now, tries=9)
    for gap, pause in zip(gaps, (1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0, 5.0), strict=True):
        assert pause / 2 - 0.02 <= gap <= pause + 0.02


def test_whoever_was_tried_least_probes_first_so_that_bad_objects_do_not_hide_a_good_store() -> None:
    neighbours = opened()
    neighbours.wait("photos", HERE, "fresh", until=0.0, tries=0)
    assert neighbours.due(1.0) == ["fresh"]


def test_a_probe_that_is_answered_lets_everybody_go_at_once() -> None:
    neighbours = opened()
    neighbours.wait("photos", HERE, "patient", until=1_000.0, tries=5)
    [probe] = neighbours.due(1.0)
    neighbours.answered("photos", 1.2)
    assert set(neighbours.due(1.2)) == {"waiter-0", "waiter-1", "waiter-2", "patient"} - {probe}
    assert neighbours.may_ask("photos", "fresh")
    assert not neighbours.holds_back(HERE)


def test_an_outage_is_one_that_a_probe_met() -> None:
    """Guard: else bad objects that open the breaker again and again would have each other excused."""
    neighbours = opened()
    neighbours.due(1.0)
    neighbours.read("photos", None, 1.0, 1.2)
    assert neighbours.recovered_at("photos") < 0
    again = opened()
    [probe] = again.due(1.0)
    again.failed("photos", "key", probe, 1.1)
    again.read("photos", None, 9.0, 9.0)
    assert again.recovered_at("photos") == 9.0


def test_an_answer_to_somebody_who_asked_before_it_opened_closes_it_too() -> None:
    neighbours = opened()
    neighbours.answered("photos", 0.1)
    assert len(neighbours.due(0.1)) == OPENS_AFTER


def test_a_probe_that_leaves_without_asking_makes_room_for_the_next() -> None:
    neighbours = opened()
    [probe] = neighbours.due(1.0)
    neighbours.left("photos", probe)
    [another] = neighbours.due(1.0)
    assert another != probe


def test_a_probe_that_hangs_keeps_others_from_asking_for_seconds_only() -> None:
    neighbours = opened()
    [hanging] = neighbours.due(1.0)
    assert neighbours.due(5.9) == []
    [another] = neighbours.due(6.1)
    assert another != hanging
    assert not neighbours.may_ask("photos", hanging)
