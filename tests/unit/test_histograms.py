"""A histogram keeps recent observations, and a reader sees all."""

import threading
from collections import deque
from typing import Any

import pytest
from opentelemetry.context import attach, create_key, detach, get_value, set_value

from tests.support.measured import measuring
from workers import metrics


class _Instrument:
    """Records observations and their contexts; `kept` is not handed on yet."""

    def __init__(self) -> None:
        self.kept: deque[Any] = deque()
        self.told: list[tuple[float, Any]] = []

    def record(self, value: float, labels: object, context: Any) -> None:
        self.told.append((value, get_value(_KEY, context)))


_KEY = create_key("test")


@pytest.fixture
def instrument(monkeypatch: pytest.MonkeyPatch) -> _Instrument:
    monkeypatch.setattr(metrics.BATCH_IMAGES, "_instrument", made := _Instrument())
    monkeypatch.setattr(metrics.BATCH_IMAGES, "_kept", made.kept)
    return made


def test_a_recent_observation_is_read() -> None:
    with measuring(metrics.STAGE_SECONDS) as measured:
        for number in (1, 2, 70):
            for _ in range(number):
                metrics.STAGE_SECONDS.record(0.1, stage="decode")
            assert measured.by("stage", metrics.STAGE_SECONDS) == {"decode": {1: 1, 2: 3, 70: 73}[number]}


def test_no_more_than_some_are_kept_and_they_keep_their_order(instrument: _Instrument) -> None:
    for number in range(200):
        metrics.BATCH_IMAGES.record(number)
        assert len(instrument.kept) < 64
    metrics.BATCH_IMAGES.hand_on()
    assert [value for value, _ in instrument.told] == list(range(200))


def test_a_measurement_keeps_the_context_that_it_was_made_in(instrument: _Instrument) -> None:
    """Guard: handed on later, and by any thread, it would else be an example of another image's trace."""
    token = attach(set_value(_KEY, "own"))
    metrics.BATCH_IMAGES.record(1)
    metrics.BATCH_IMAGES.record(2, set_value(_KEY, "given"))
    detach(token)
    other = threading.Thread(target=metrics.BATCH_IMAGES.hand_on)
    other.start()
    other.join()
    assert instrument.told == [(1, "own"), (2, "given")]


def test_threads_that_measure_and_one_that_reads_lose_nothing_and_tell_nothing_twice(instrument: _Instrument) -> None:
    def measure(first: int) -> None:
        for number in range(first, first + 2_000):
            metrics.BATCH_IMAGES.record(number)

    threads = [threading.Thread(target=measure, args=(2_000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.BATCH_IMAGES.hand_on()
    metrics.BATCH_IMAGES.hand_on()
    assert sorted(value for value, _ in instrument.told) == list(range(8_000))
