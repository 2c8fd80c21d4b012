"""What only the threaded form does: work side by side, and end in time."""

import threading
from collections import Counter
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
from workers.intake.turns import Turns
from workers.types import DecodedImage, Facts, Fetched, Partition, Transform


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


def test_an_image_that_waits_for_its_turn_is_in_no_decoders_hands(
    store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.gate.set()
    intake = ThreadIntake(store, (Transform(8),), decode_threads=1)
    first, second = read(intake, job("a")), read(intake, job("a"))
    assert intake.at_work()[0] is None
    gate, stages = threading.Event(), intake._stages
    decode = stages.decode

    def gated(fetched: Fetched, facts: Facts) -> DecodedImage:
        gate.wait(100)
        return decode(fetched, facts)

    monkeypatch.setattr(stages, "decode", gated)
    futures = [intake.decode(*each) for each in (first, second)]
    eventually(lambda: intake.at_work()[0] is first[0].job and intake.at_work()[1] > 0.1)
    gate.set()
    assert not wait(futures, 30).not_done
    eventually(lambda: intake.at_work()[0] is None)
    intake.close()


A, B, C = (Partition("images", number) for number in range(3))


def test_items_of_one_partition_come_in_order_and_by_rank() -> None:
    turns: Turns[str] = Turns(ranks=2)
    turns.add(A, "second")
    turns.add(A, "last", rank=1)
    turns.add(A, "first", first=True)
    assert turns.next(from_rank=1) == "last"
    assert [turns.next(), turns.take(), turns.take(), turns.take()] == ["first", "first", "second", "last"]
    assert turns.next() is None


def served(turns: Turns[str], seconds: dict[Partition, float], count: int) -> Counter[str]:
    """How often the partition of each name was served, whose items take so long."""
    found: Counter[str] = Counter()
    by_name = {str(partition): partition for partition in seconds}
    for _ in range(count):
        name = turns.take()
        found[name] += 1
        turns.took(by_name[name], seconds[by_name[name]])
        turns.add(by_name[name], name)
    return found


def test_partitions_get_the_same_time_and_not_the_same_number() -> None:
    """Guard: by number, one image of two seconds goes before each of two milliseconds."""
    turns: Turns[str] = Turns()
    for partition in (A, B, C):
        turns.add(partition, str(partition))
    found = served(turns, {A: 2.0, B: 0.02, C: 0.01}, 3_000)
    assert 0 < found[str(A)] <= 15
    assert 1_900 < found[str(C)] < 2_100


def test_one_that_had_nothing_for_a_while_is_next_and_has_no_more_to_ask_for() -> None:
    turns: Turns[str] = Turns()
    turns.add(A, str(A))
    served(turns, {A: 1.0}, 100)
    turns.add(A, str(A))
    for _ in range(100):
        turns.add(B, str(B))
    turns.took(B, 0.4)
    found = [turns.take() for _ in range(8)]
    assert found[0] == str(B)
    assert found.count(str(A)) == 2


def test_partitions_can_be_passed_over_and_one_is_alone_a_minute_after_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    monkeypatch.setattr("workers.intake.turns.time.monotonic", lambda: now)
    turns: Turns[str] = Turns()
    turns.add(A, "a")
    assert turns.alone(A)
    turns.add(B, "b")
    assert not turns.alone(A)
    assert [turns.next(), turns.next(passed=[A]), turns.next(passed=[A, B])] == ["a", "b", None]
    assert turns.take(passed=[A]) == "b"
    now += 61
    turns.add(A, "a again")
    assert turns.alone(A)
    assert not turns.alone(B)


def test_what_is_drained_is_all() -> None:
    turns: Turns[str] = Turns(ranks=2)
    turns.add(A, "a", rank=1)
    turns.add(None, "b")
    assert sorted(turns.drain()) == ["a", "b"]
    assert turns.next() is None
