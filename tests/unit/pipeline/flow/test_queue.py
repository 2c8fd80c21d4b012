"""The queues between threads."""

from __future__ import annotations

import threading

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


def test_what_is_added_wakes_no_thread_and_is_taken_with_what_is_put_next() -> None:
    filled = threading.Condition()
    queue = StageQueue[int](filled)
    woken = threading.Event()
    waits = threading.Event()

    def wait() -> None:
        with filled:
            waits.set()
            filled.wait(30)
            woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(30)
    queue.add(1)
    assert not woken.wait(0.05)
    queue.put(2)
    thread.join(30)
    assert woken.is_set()
    assert queue.take(9) == [1, 2]
