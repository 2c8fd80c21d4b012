"""The queues between threads."""

from __future__ import annotations

from workers.pipeline.flow.queue import StageQueue


def test_a_queue_hands_out_what_is_ready_up_to_a_number() -> None:
    queue = StageQueue[int]()
    for number in range(5):
        queue.put(number)
    assert queue.take(3) == [0, 1, 2]
    assert queue.take(3) == [3, 4]
    assert queue.take(3) == []


def test_what_is_put_at_once_stays_in_order() -> None:
    queue = StageQueue[int]()
    queue.put(*range(3))
    queue.put()
    assert len(queue) == 3
    assert queue.take(9) == [0, 1, 2]
