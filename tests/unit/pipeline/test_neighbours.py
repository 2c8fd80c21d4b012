"""Who waits for a neighbour, until when, and what that holds back."""

from __future__ import annotations

from workers.pipeline.neighbours import Neighbours
from workers.vocabulary import Epoch, Partition


def test_waiters_come_out_when_their_time_has_come_earliest_first() -> None:
    neighbours, epoch = Neighbours[str](), Epoch(Partition("in", 0), "m")
    neighbours.wait(epoch, 30.0, "late")
    neighbours.wait(epoch, 10.0, "soon")
    assert neighbours.due(9.9) == []
    assert neighbours.due(10.0) == ["soon"]
    assert neighbours.due(30.0) == ["late"]


def test_an_epoch_is_held_back_while_something_of_it_waits_and_no_other_is() -> None:
    neighbours = Neighbours[str]()
    epoch, regained = Epoch(Partition("in", 0), "m"), Epoch(Partition("in", 0), "m")
    neighbours.wait(epoch, 10.0, "one")
    neighbours.wait(epoch, 20.0, "two")
    neighbours.due(10.0)
    assert neighbours.holds_back(epoch)
    assert not neighbours.holds_back(regained)
    neighbours.due(20.0)
    assert not neighbours.holds_back(epoch)


def test_a_bucket_has_been_read_since_a_moment_or_not() -> None:
    neighbours = Neighbours[str]()
    assert not neighbours.has_read("photos", since=0.0)
    neighbours.note_read("photos", 50.0)
    assert neighbours.has_read("photos", since=50.0)
    assert not neighbours.has_read("photos", since=50.1)
    assert not neighbours.has_read("others", since=0.0)
