"""How a task ends: it gives back all that it holds, once, whatever the reason."""

from __future__ import annotations

import itertools

import pytest

from tests.support.harness import BUCKET, POISON, png
from tests.support.manual_pipeline import ManualPipeline
from workers.errors import Gone, Rejected, Superseded, Unavailable
from workers.pipeline.task import Task


def task() -> Task:
    """One that has been read and not sent on."""
    manual = ManualPipeline()
    manual.put("a")
    manual.events("a")
    manual.pipeline.parse.work()
    (found,) = manual.pipeline.lookup._events.take(9)
    return found


def test_what_is_held_is_given_back_the_last_acquired_first() -> None:
    given: list[str] = []
    held = task()
    for what in ("a", "b", "c"):
        held.hold(what, lambda what=what: given.append(what))  # type: ignore[misc]
    held.close("done")
    assert given == ["c", "b", "a"]


def test_what_was_given_back_early_is_not_given_back_again() -> None:
    given: list[str] = []
    held = task()
    held.hold("a", lambda: given.append("a"))
    held.hold("b", lambda: given.append("b"))
    held.release("a", "never held")
    held.release("a")
    held.hold("a", lambda: given.append("a, the second"))
    held.close("dropped")
    held.close("dropped")
    assert given == ["a", "a, the second", "b"]


def test_one_that_can_not_be_given_back_keeps_no_other_from_it() -> None:
    given: list[str] = []

    def fails() -> None:
        raise OSError("no")

    held = task()
    held.hold("a", lambda: given.append("a"))
    held.hold("b", fails)
    with pytest.raises(OSError, match="no"):
        held.close("done")
    assert given == ["a"]


def test_nothing_is_held_twice_at_once() -> None:
    held = task()
    held.hold("a", lambda: None)
    with pytest.raises(AssertionError, match="a is held already"):
        held.hold("a", lambda: None)


def held(manual: ManualPipeline) -> dict[str, int]:
    """What is held of all that tasks share."""
    line = manual.pipeline
    return {
        "encoded": line.fetch.encoded.used,
        "slots": line.fetch.slots.used,
        "decoded": line.decode.budget.used,
        "gate": line.decode._gate._inside,
        "journal": len(manual.worker._journal._in_hand),
        "flights": len(line.lookup._equal._single_flight),
        "places": sum(manual.in_flight.values()),
    }


NOTHING = {"encoded": 0, "slots": 0, "decoded": 0, "gate": 0, "journal": 0, "flights": 0, "places": 0}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (png((1, 2, 3)), None),
        (png(POISON), None),
        (b"not an image", None),
        (png((1, 2, 3))[:-30], None),
        (png((1, 2, 3)), Gone("no such object")),
        (png((1, 2, 3)), Superseded("another etag")),
        (png((1, 2, 3)), Rejected("fetch", "forbidden", "not yours")),
    ],
    ids=["done", "the model fails", "header", "pixels", "gone", "superseded", "refused"],
)
def test_a_task_that_is_done_holds_nothing_any_more(body: bytes, error: Exception | None) -> None:
    manual = ManualPipeline()
    for key in ("a", "b"):
        manual.store.put(BUCKET, key, body)
        if error is not None:
            manual.store.fail(BUCKET, key, error)  # type: ignore[arg-type]
    manual.events("a", "b")
    manual.turn()
    assert len(manual.done) == 2
    assert held(manual) == NOTHING


def test_a_task_holds_nothing_any_more_wherever_its_assignment_ends() -> None:
    """Ended before each of the turns of its stages, one after the other, with an equal image beside it."""
    ended_in: set[str] = set()
    for turns in itertools.count():
        manual = ManualPipeline()
        manual.put("a")
        manual.store.put(BUCKET, "b", png((0, 1, 9)))
        manual.events("a", "b")
        threads = (manual.pipeline.parse, manual.pipeline.lookup, manual.pipeline.annotate, manual.pipeline.finish)
        for turn in range(turns):
            threads[turn % len(threads)].work()
        ended_in.update(manual.in_flight)
        over = len(manual.pipeline.parse) == 0 and not manual.in_flight
        manual.assignments[0].end()
        manual.pipeline.ledger.close_ended()
        for stage in manual.pipeline.stages:
            stage.drop_ended()
        for _ in range(10):
            for stage in threads:
                stage.work()
        assert held(manual) == NOTHING, turns
        if over:
            break
    assert ended_in == {"lookup", "wait-equal", "wait-device", "finish"}


def test_a_task_that_waits_for_the_store_holds_nothing_but_its_place() -> None:
    manual = ManualPipeline()
    manual.put("a")
    manual.store.fail(BUCKET, None, Unavailable("s3", "away"))
    manual.events("a")
    manual.turn()
    assert held(manual) == {**NOTHING, "places": 1}
    manual.assignments[0].end()
    manual.pipeline.fetch.drop_ended()
    assert held(manual) == NOTHING
