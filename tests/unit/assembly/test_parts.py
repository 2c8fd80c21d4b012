"""A worker of several processes: how many, and which settings each has."""

from pathlib import Path

import pytest

from workers.assembly.decoders import judge, limits
from workers.assembly.needs import CHILD_BYTES, worst_bytes
from workers.assembly.parts import Hardware, part_of, wanted_processes
from workers.environment import read
from workers.errors import Misconfigured
from workers.settings import MIB, Settings, WorkerPart

GIB = 1024 * MIB


def part(settings: Settings, number: int = 1, of: int = 4) -> Settings:
    return part_of(settings, WorkerPart(number, of, Path("/there")))


def test_queues_and_decoders_are_divided_and_limits_of_one_image_are_not() -> None:
    whole = read({"TAGSTREAM_DECODE_THREADS": "9", "TAGSTREAM_FETCH_THREADS": "16"})
    one = part(whole)
    for name in ("encoded_bytes", "decoded_bytes", "ledger_bytes", "polled_bytes"):
        assert getattr(one, name) == getattr(whole, name) // 4
    assert (one.decode_threads, one.fetch_threads) == (2, 4)
    assert part(whole, of=20).decode_threads == part(whole, of=20).fetch_threads == 1
    assert (limits(one), judge(one)) == (limits(whole), judge(whole)), "verdicts and cache keys stay"
    assert (one.batch_bytes, one.corrections_bytes) == (whole.batch_bytes, whole.corrections_bytes)


def test_each_has_the_transactional_id_with_its_number_and_without_one_a_slot() -> None:
    named = read({"TAGSTREAM_TRANSACTIONAL_ID": "pod-7"})
    assert [part(named, number).transactional_id for number in (1, 2)] == ["pod-7-1", "pod-7-2"]
    assert part(read({})).transactional_id == ""


@pytest.mark.parametrize(
    ("environ", "cuda_gib", "processes"),
    [
        ({}, 80, 1),
        ({"TAGSTREAM_WORKERS": "3"}, 0, 3),
        ({"TAGSTREAM_WORKERS": "auto", "TAGSTREAM_DECODE_THREADS": "16"}, 80, 4),
        ({"TAGSTREAM_WORKERS": "AUTO", "TAGSTREAM_DECODE_THREADS": "64"}, 80, 8),
        ({"TAGSTREAM_WORKERS": "auto", "TAGSTREAM_DECODE_THREADS": "64"}, 4, 3),
        ({"TAGSTREAM_WORKERS": "auto", "TAGSTREAM_DECODE_THREADS": "64"}, 0, 1),
        ({"TAGSTREAM_WORKERS": "auto", "TAGSTREAM_DECODE_THREADS": "3"}, 80, 1),
        ({"TAGSTREAM_WORKERS": "auto", "TAGSTREAM_DECODE_THREADS": "64", "TAGSTREAM_DEVICE": "cpu"}, 80, 1),
    ],
)
def test_auto_is_one_for_four_processors_at_most_eight_and_what_the_device_holds(
    environ: dict[str, str], cuda_gib: int, processes: int
) -> None:
    assert wanted_processes(read(environ), lambda: Hardware(cuda_gib * GIB, 8)) == processes


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_another_number_of_workers_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match="it must be a whole number from 1 to 999, or auto"):
        read({"TAGSTREAM_WORKERS": text})


def test_several_processes_hold_one_large_image_a_batch_and_a_program_each() -> None:
    settings = read({"TAGSTREAM_DEVICE": "cpu"})
    more = settings.decode_memory * 5 // 4 + 3 * (2 * settings.batch_bytes + CHILD_BYTES)
    assert worst_bytes(settings, 8, 7 * MIB, processes=4) == worst_bytes(settings, 8, 7 * MIB) + more
