"""The queues between threads."""

from __future__ import annotations

from workers.pipeline.flow.queue import StageQueue


def test_a_queue_hands_out_what_is_ready_up_to_a_number() -> None:
    queue = StageQueue[int]()
    for number in range(5):
        queue.put(number)
    assert queue.take(3, 0) == [0, 1, 2]
    assert queue.take(3, 0) == [3, 4]
    assert queue.take(3, 0) == []


def test_a_closed_queue_gives_what_is_left_and_waits_for_nothing() -> None:
    queue = StageQueue[int]()
    queue.put(1)
    queue.close()
    assert queue.take(9, 60) == [1]
    assert queue.take(9, 60) == []
