"""Tasks that wait for the object store: which, until when, and how they affect their partition."""

import logging

import pytest

from workers.breaker import OPENS_AFTER
from workers.errors import Fault, Unavailable
from workers.pipeline.flow.bucket_breakers import HOLDS_BACK, REFUSES_ALL, TELL_AFTER_S, BucketBreakers
from workers.types import Assignment, Partition

HERE = Assignment(Partition("in", 0), "m")


AWAY = Unavailable("s3", "no connection")


def saying(fault: Fault, advice: str = "correct the key") -> Unavailable:
    return Unavailable("s3", f"HTTP 403 {fault}", fault=fault, advice=advice)


def opened(now: float = 0.0) -> BucketBreakers[str]:
    """Different objects have failed in a row; each waiting task waits for a second."""
    breakers = BucketBreakers[str](first_pause_s=1.0, last_pause_s=8.0)
    for number in range(OPENS_AFTER):
        breakers.failed("photos", f"key-{number}", f"waiter-{number}", AWAY, now)
        breakers.wait("photos", HERE, f"waiter-{number}", until=now + 1.0, tries=1)
    return breakers


def test_waiters_come_out_when_their_time_has_come() -> None:
    breakers = BucketBreakers[str]()
    breakers.wait("photos", HERE, "late", until=30.0)
    breakers.wait("photos", HERE, "soon", until=10.0)
    assert breakers.due(9.9) == []
    assert breakers.due(10.0) == ["soon"]
    assert breakers.due(29.9) == []
    assert breakers.due(30.0) == ["late"]


def test_an_assignment_is_held_back_while_many_tasks_of_it_wait_for_a_bucket_that_fails_and_no_other_is() -> None:
    breakers = opened()
    elsewhere, regained = Assignment(Partition("in", 1), "m"), Assignment(Partition("in", 0), "m")
    for number in range(HOLDS_BACK):
        breakers.wait("others", elsewhere, f"own fault {number}", until=10.0)
    for number in range(HOLDS_BACK - OPENS_AFTER - 1):
        breakers.wait("photos", HERE, f"more {number}", until=10.0)
    assert not breakers.holds_back(HERE), "one of the next may tell that they alone are to blame"
    breakers.wait("photos", HERE, "one more", until=10.0)
    assert breakers.holds_back(HERE)
    assert not breakers.holds_back(regained)
    assert not breakers.holds_back(elsewhere)
    [probe] = breakers.due(1.0)
    assert not breakers.holds_back(HERE)
    breakers.wait("photos", HERE, probe, until=10.0)
    breakers.read("photos", 1.0, 1.0)
    assert not breakers.holds_back(HERE), "those that wait on wait because of themselves"


def test_tasks_of_an_ended_assignment_can_be_taken_out_before_their_time() -> None:
    breakers = BucketBreakers[str]()
    ended = Assignment(Partition("in", 1), "m")
    breakers.wait("photos", HERE, "ours", until=10.0)
    breakers.wait("photos", ended, "theirs", until=10.0)
    ended.end()
    assert breakers.leave_ended() == ["theirs"]
    assert not breakers.holds_back(ended)
    assert breakers.due(10.0) == ["ours"]


def test_a_read_counts_from_when_it_was_asked_for() -> None:
    breakers = BucketBreakers[str]()
    assert not breakers.has_read("photos", after=0.0)
    breakers.read("photos", 50.0, 70.0)
    breakers.answered("photos", 80.0)
    assert breakers.has_read("photos", after=49.9)
    assert not breakers.has_read("photos", after=50.0), "what was under way already says nothing"
    assert not breakers.has_read("others", after=0.0)


def test_a_bucket_counts_as_refusing_until_it_answers_or_no_task_waits_for_it() -> None:
    breakers = BucketBreakers[str]()
    for end in (
        lambda: breakers.read("photos", 1.0, 1.0),
        lambda: breakers.answered("photos", 1.0),
        breakers.leave_ended,
    ):
        breakers.failed("photos", "key", "waiter", saying("access"), 0.0)
        assert not breakers.may_ask("photos", "another"), "at once"
        assert breakers.denials() == ["correct the key"]
        assert breakers.notices(1e6) == []
        end()
        assert breakers.denials() == []


def test_one_object_that_fails_however_often_keeps_no_other_from_asking() -> None:
    breakers = BucketBreakers[str]()
    for _ in range(100):
        breakers.failed("photos", "bad", "waiter", AWAY, 0.0)
    assert breakers.may_ask("photos", "another")
    assert breakers.may_ask("photos")


def test_an_answer_between_them_makes_failures_no_row() -> None:
    breakers = BucketBreakers[str]()
    for number in range(100):
        breakers.failed("photos", f"bad-{number}", "waiter", AWAY, 0.0)
        if number % 2:
            breakers.answered("photos", 0.0)
    assert breakers.may_ask("photos")


def test_after_different_objects_failed_in_a_row_only_a_probe_may_ask() -> None:
    breakers = opened()
    assert not breakers.may_ask("photos", "fresh")
    assert breakers.may_ask("others", "fresh")
    assert breakers.may_ask("others")
    assert breakers.breakers() == {"closed": 0, "open": 1, "half-open": 0}
    assert breakers.due(0.4) == [], "a pause comes first"
    [probe] = breakers.due(1.0)
    assert probe in {f"waiter-{number}" for number in range(OPENS_AFTER)}
    assert breakers.may_ask("photos", probe)
    assert breakers.due(1.1) == [], "one at a time"
    assert breakers.breakers() == {"closed": 0, "open": 0, "half-open": 1}


def test_pauses_between_probes_grow_and_stay_bounded() -> None:
    breakers, now, gaps = opened(), 0.0, []
    for _ in range(8):
        asked = now
        while not (found := breakers.due(now)):
            now += 0.01
        gaps.append(now - asked)
        breakers.failed("photos", found[0], found[0], AWAY, now)
        breakers.wait("photos", HERE, found[0], until=now, tries=9)
    for gap, pause in zip(gaps, (1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0, 5.0), strict=True):
        assert pause / 2 - 0.02 <= gap <= pause + 0.02


def test_the_task_that_was_tried_least_probes_first_so_that_bad_objects_do_not_hide_a_good_store() -> None:
    breakers = opened()
    breakers.wait("photos", HERE, "fresh", until=0.0, tries=0)
    assert breakers.due(1.0) == ["fresh"]


def test_a_probe_that_is_answered_lets_all_go_at_once() -> None:
    breakers = opened()
    breakers.wait("photos", HERE, "patient", until=1_000.0, tries=5)
    [probe] = breakers.due(1.0)
    breakers.answered("photos", 1.2)
    assert set(breakers.due(1.2)) == {"waiter-0", "waiter-1", "waiter-2", "patient"} - {probe}
    assert breakers.may_ask("photos", "fresh")
    assert not breakers.holds_back(HERE)


def test_a_probe_that_is_over_may_ask_no_more() -> None:
    for end in ("failed", "answered", "left"):
        breakers = opened()
        [probe] = breakers.due(1.0)
        match end:
            case "failed":
                breakers.failed("photos", "key", probe, AWAY, 1.1)
            case "answered":
                breakers.answered("photos", 1.1)
                for number in range(OPENS_AFTER):
                    breakers.failed("photos", f"key-{number}", "another", AWAY, 1.2)
            case "left":
                breakers.left("photos", probe)
        assert not breakers.may_ask("photos", probe), end


def test_who_is_not_the_probe_leaves_it_in_its_place() -> None:
    breakers = opened()
    [probe] = breakers.due(1.0)
    breakers.left("photos", "another")
    breakers.left("others", probe)
    assert breakers.may_ask("photos", probe)
    assert breakers.due(1.1) == []


def test_the_log_has_one_line_when_a_bucket_fails_and_one_when_it_answers_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    breakers = opened()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the bucket 'photos' fails for one object after another" in caplog.text
    breakers.failed("photos", "one more", "another", AWAY, 0.1)
    assert len(caplog.records) == 1
    breakers.answered("photos", 1.0)
    breakers.answered("photos", 1.1)
    assert len(caplog.records) == 2
    assert f"the bucket 'photos' answers again: {OPENS_AFTER} images resume" in caplog.text


def test_a_probe_is_drawn_by_partition_first_then_by_task() -> None:
    """Guard: else one object of a good partition would wait for all the odd ones of another."""
    breakers = opened()
    elsewhere = Assignment(Partition("in", 1), "m")
    for number in range(10_000):
        breakers.wait("photos", HERE, f"odd {number}", until=0.0)
    breakers.wait("photos", elsewhere, "good", until=0.0, tries=7)
    first, second = breakers.due(1.0), breakers.due(7.0)
    assert "good" in first + second


def test_refusals_of_different_objects_in_a_row_are_reported_until_one_is_read() -> None:
    breakers = BucketBreakers[str]()
    breakers.wait("photos", HERE, "waiter", until=1e9)
    for number in range(3 * REFUSES_ALL):
        breakers.refused("photos", f"key-{number % (REFUSES_ALL - 1)}", saying("forbidden"))
    assert not breakers.refuses_all("photos")
    breakers.refused("photos", "another", saying("forbidden"))
    assert breakers.refuses_all("photos")
    assert not breakers.refuses_all("others")
    assert breakers.may_ask("photos")
    assert len(breakers.notices(0.0)) == 1
    breakers.answered("photos", 1.0)
    assert breakers.refuses_all("photos"), "what is not there is no comparison"
    breakers.read("photos", 1.0, 2.0)
    assert not breakers.refuses_all("photos")
    assert breakers.notices(2.0) == []
    assert breakers.due(2.0) == ["waiter"], "at once"


def test_a_long_outage_is_reported_once() -> None:
    breakers = opened()
    assert breakers.notices(TELL_AFTER_S - 0.1) == []
    [notice] = breakers.notices(TELL_AFTER_S)
    assert "'photos'" in notice
    assert AWAY.detail in notice
    breakers.answered("photos", 40.0)
    assert breakers.notices(99.0) == []


def test_an_answer_to_a_task_that_asked_before_it_opened_closes_it_too() -> None:
    breakers = opened()
    breakers.answered("photos", 0.1)
    assert len(breakers.due(0.1)) == OPENS_AFTER


def test_a_probe_that_leaves_without_asking_makes_room_for_the_next() -> None:
    breakers = opened()
    [probe] = breakers.due(1.0)
    breakers.left("photos", probe)
    [another] = breakers.due(1.0)
    assert another != probe


def test_a_probe_that_hangs_keeps_others_from_asking_for_seconds_only() -> None:
    breakers = opened()
    [hanging] = breakers.due(1.0)
    assert breakers.due(5.9) == []
    [another] = breakers.due(6.1)
    assert another != hanging
    assert not breakers.may_ask("photos", hanging)
