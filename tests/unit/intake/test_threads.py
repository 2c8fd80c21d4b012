"""What only the threaded form does: work side by side, and end in time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import wait

import pytest
from PIL import Image

from tagstream_testing.memory import MemoryObjectStore
from tests.contract.test_intake import job
from tests.support.images import encoded, noise, ramp
from tests.support.waiting import bounded, eventually
from tests.unit.intake.deadly import LARGEST, read
from workers.errors import Rejected
from workers.intake import Limits, ThreadIntake
from workers.intake.fetching import EncodedBytes
from workers.types import Transform


class GatedStore(MemoryObjectStore):
    """Reads wait at a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.waiting = threading.Semaphore(0)

    def get(self, *args, **kwargs):  # type: ignore[no-untyped-def]  # passes everything through
        self.waiting.release()
        self.gate.wait(100)
        return super().get(*args, **kwargs)


@pytest.fixture
def store() -> Iterator[GatedStore]:
    store = GatedStore()
    store.put("photos", "a", encoded(ramp(), "png"))
    yield store
    store.gate.set()


def test_so_many_objects_are_fetched_at_once_and_no_more(store: GatedStore) -> None:
    intake = ThreadIntake(store, (Transform(8),), fetch_threads=3)
    futures = [intake.fetch(job("a"), LARGEST) for _ in range(5)]
    for _ in range(3):
        assert store.waiting.acquire(timeout=30)
    assert not store.waiting.acquire(timeout=0.1)
    store.gate.set()
    assert not wait(futures, 10).not_done
    intake.close()


def test_a_slow_fetch_holds_up_no_decoding(store: GatedStore) -> None:
    intake = ThreadIntake(store, (Transform(8),), fetch_threads=1)
    store.gate.set()
    fetched, facts = read(intake, job("a"))
    store.gate.clear()
    slow = intake.fetch(job("a"), LARGEST)
    assert intake.decode(fetched, facts).result(10).pixels[Transform(8)].shape == (8, 8, 3)
    assert not slow.done()
    store.gate.set()
    slow.result(10)
    intake.close()


def test_close_drops_what_waits_and_waits_for_what_runs(store: GatedStore) -> None:
    intake = ThreadIntake(store, (Transform(8),), fetch_threads=1)
    running, waiting = intake.fetch(job("a"), LARGEST), intake.fetch(job("a"), LARGEST)
    assert store.waiting.acquire(timeout=30)
    closing = threading.Thread(target=intake.close)
    closing.start()
    eventually(waiting.cancelled)
    assert closing.is_alive()
    store.gate.set()
    closing.join()
    assert running.result(0).size > 0
    assert waiting.cancelled()
    assert not wait([running, waiting], 1).not_done


def test_close_is_bounded_though_a_fetch_hangs(store: GatedStore) -> None:
    intake = ThreadIntake(store, (Transform(8),), fetch_threads=1, close_s=0.2)
    hung = intake.fetch(job("a"), LARGEST)
    assert store.waiting.acquire(timeout=30)
    with bounded():
        intake.close()
    assert not hung.done()


def test_the_handle_holds_no_bytes_once_they_are_decoded(store: GatedStore) -> None:
    store.gate.set()
    intake = ThreadIntake(store, (Transform(8),))
    fetched, facts = read(intake, job("a"))
    handle = fetched.handle
    assert isinstance(handle, EncodedBytes)
    intake.decode(fetched, facts).result(10)
    with pytest.raises(RuntimeError):
        handle.take()
    intake.close()


def test_the_error_of_a_rejected_image_holds_none_of_its_bytes(store: GatedStore) -> None:
    store.gate.set()
    store.put("photos", "b", encoded(noise(64, 64), "png")[:-2000])
    intake = ThreadIntake(store, (Transform(8),), Limits())
    error = intake.decode(*read(intake, job("b"))).exception(10)
    assert isinstance(error, Rejected)
    assert error.__cause__ is None
    assert error.__context__ is None
    trace = error.__traceback__
    while trace is not None:
        values = trace.tb_frame.f_locals.values()
        assert not any(isinstance(value, bytes | Image.Image) for value in values)
        trace = trace.tb_next
    intake.close()
