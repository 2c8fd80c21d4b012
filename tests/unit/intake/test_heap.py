"""Freed memory that the process keeps, as the kernel sees it, and when it is returned."""

import ctypes
import gc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from types import NoneType

import pytest

from tagstream_testing.memory import MemoryObjectStore
from tests.contract.test_intake import job
from tests.support.images import encoded, noise
from tests.unit.intake.deadly import read
from tests.unit.intake.memory import needs_linux
from workers.errors import Gone, LargerThanReserved, Rejected, Unavailable
from workers.intake import ProcessIntake, fetching
from workers.intake.decoding import Decoding
from workers.intake.fetching import EncodedBytes, Fetching
from workers.intake.heap import Heap, freed, keep_large_blocks
from workers.intake.limits import Limits
from workers.intake.processes import fork_server, pending
from workers.intake.processes.pending import PendingRequest
from workers.types import Transform

MIB = 1 << 20
BLOCK = 8 * MIB


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    monkeypatch.setattr(fetching, "freed", sizes.append)
    return sizes


def test_the_heap_is_trimmed_after_a_number_of_freed_bytes() -> None:
    emptied: list[None] = []
    heap = Heap(10, lambda: emptied.append(None))
    counts = []
    for size in (4, 5, 1, 9, 1, 25):
        heap.freed(size)
        counts.append(len(emptied))
    assert counts == [0, 0, 1, 1, 2, 3]


@pytest.mark.slow
@needs_linux
def test_large_blocks_are_kept_until_enough_is_freed() -> None:
    kept, after_some, after_enough = in_a_process_of_its_own(keep_large_blocks)
    assert kept > 4 * BLOCK
    assert after_some > 4 * BLOCK
    assert after_enough < BLOCK


@pytest.mark.slow
@needs_linux
def test_a_decoders_process_gives_large_blocks_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_a_process_of_its_own(gc.collect)[0] > BLOCK, "glibc does so by itself"
    for name, value in fork_server._ITS_OWN.items():
        monkeypatch.setenv(name, value)
    assert in_a_process_of_its_own(gc.collect)[0] < BLOCK


def test_an_objects_bytes_are_reported_when_they_are_dropped(told: list[int]) -> None:
    handle = EncodedBytes(b"x" * 5)
    handle.read()
    assert sum(told) == 0
    handle.drop()
    handle.drop()
    assert sum(told) == 5


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_an_objects_bytes_are_reported_after_their_decode(
    told: list[int], monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    store = MemoryObjectStore()
    body = encoded(noise(64, 64), "png")[: None if whole else -200]
    store.put("photos", "a", body)

    def note(size: int) -> None:
        told.append(size)
        assert not any(isinstance(each, PendingRequest) and each.body for each in gc.get_objects())

    monkeypatch.setattr(pending, "freed", note)
    with closing(ProcessIntake(store, (Transform(8),), children=1)) as intake:
        fetched, facts = read(intake, job("a"))
        assert sum(told) == 0
        error = intake.decode(fetched, facts).exception(60)
        assert isinstance(error, NoneType if whole else Rejected)
        assert sum(told) == len(body)
        intake.discard(fetched)
        assert sum(told) == len(body)


@pytest.mark.parametrize(
    ("error", "read"),
    [
        (LargerThanReserved(None), 8),
        (LargerThanReserved(9), 0),  # which its answer said before any byte
        (Unavailable("s3", "the connection broke"), 8),
        (Gone("no such key"), 0),
    ],
    ids=repr,
)
def test_the_bytes_of_a_failed_read_are_reported(told: list[int], error: Exception, read: int) -> None:
    class Failing(MemoryObjectStore):
        def get(self, *_, **__):  # type: ignore[no-untyped-def]  # takes anything
            raise error

    with pytest.raises(type(error)):
        Fetching(Failing(), Limits(), Decoding([], Limits())).fetch(job("a"), 8)
    assert sum(told) == read


def in_a_process_of_its_own(choose: Callable[[], object]) -> tuple[int, int, int]:
    """The choice holds for the whole process, and as long as it lives."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(resident_after_blocks, choose).result(60)


def resident_after_blocks(choose: Callable[[], object]) -> tuple[int, int, int]:
    """Resident bytes beyond those at the start: after blocks were freed, and after `freed` got 1 and 64 MB."""
    choose()
    ctypes.create_string_buffer(BLOCK)  # after the first one freed glibc takes them from its heap
    start = _resident()
    blocks = [ctypes.create_string_buffer(BLOCK) for _ in range(6)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    last = ctypes.create_string_buffer(100_000)  # above them, so that the heap does not just shrink
    del block
    blocks.clear()
    found = [_resident() - start]
    for size in (MIB, 64 * MIB):
        freed(size)
        found.append(_resident() - start)
    del last
    return found[0], found[1], found[2]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
