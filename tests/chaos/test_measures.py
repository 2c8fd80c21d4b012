"""How the soak judges memory, and how lost markers are found in the log of a broker."""

import random
import struct
from pathlib import Path

import pytest

from tests.chaos.markers import LostMarker, lost_markers
from tests.support.processes import Growth


def after(images: int, leaks_mb: float) -> Growth:
    """Memory of a family that fluctuates by 4 MB at rest, and leaks this much per 10,000 images."""
    chance = random.Random(3)
    growth = Growth(0, lambda: 0.0)
    for done in range(2_000, images, 2_000):
        growth.samples.append((done, int(1e6 * (600 + chance.uniform(-4, 4) + leaks_mb * done / 10_000))))
    return growth


@pytest.mark.parametrize("leaks_mb", [0.0, 2.0, 30.0])
def test_a_leak_differs_from_fluctuations(leaks_mb: float) -> None:
    assert after(60_000, leaks_mb).mb_per_10_000() == pytest.approx(leaks_mb, abs=0.7)


@pytest.mark.parametrize(
    ("held_mb", "grows_mb"),
    [
        ((517.2, 516.2, 545.6, 546.2, 546.2), 0.3),  # measured: fullest between the second and the third
        ((546.8, 548.3, 550.2, 549.4, 546.9), -1.0),  # measured
        ((508.9, 564.3, 567.8, 568.3, 540.0), -7.2),  # measured: fullest after the first, and some of it came back
        ((500.0, 530.0, 530.0, 530.0, 530.0), 0.0),
        ((500.0, 503.0, 536.0, 539.0, 542.0), 3.0),  # a step, and a leak too
        ((500.0, 530.0, 530.0, 560.0, 560.0), 15.0),  # a leak that comes in steps
    ],
)
def test_the_remains_of_the_peak_are_no_leak(held_mb: tuple[float, ...], grows_mb: float) -> None:
    growth = Growth(0, lambda: 0.0)
    growth.samples += [(10_000 * number, int(1e6 * held)) for number, held in enumerate(held_mb)]
    assert growth.mb_per_10_000() == pytest.approx(grows_mb, abs=0.4)


TRANSACTION, MARKER = 1 << 4, 1 << 4 | 1 << 5


def batch(offset: int, attributes: int, producer: int, assignment: int) -> bytes:
    """A batch with one record of four bytes that no consumer reads."""
    head = struct.pack(">qiibIhiqqqhii", offset, 53, 0, 2, 0, attributes, 0, 0, 0, producer, assignment, 0, 1)
    return head + b"\0\0\0\0"


def log(folder: Path, *batches: bytes) -> Path:
    partition = folder / "data" / "out-1"
    partition.mkdir(parents=True)
    (partition / "00000000000000000000.log").write_bytes(b"".join(batches) + bytes(100))
    return folder


def test_an_assignment_that_begins_in_an_open_transaction_tells_of_a_lost_marker(tmp_path: Path) -> None:
    folder = log(
        tmp_path,
        batch(0, TRANSACTION, 7, 0),
        batch(1, 0, -1, -1),
        batch(2, TRANSACTION, 7, 0),
        batch(3, TRANSACTION, 7, 1),
    )
    assert lost_markers(folder, "out") == [LostMarker("out:1 before offset 3", records=2)]


def test_an_ended_transaction_and_another_producers_one_show_no_lost_marker(tmp_path: Path) -> None:
    folder = log(
        tmp_path,
        batch(0, TRANSACTION, 7, 0),
        batch(1, TRANSACTION, 8, 5),
        batch(2, TRANSACTION, 7, 0),
        batch(3, MARKER, 7, 0),
        batch(4, TRANSACTION, 7, 1),
        batch(5, MARKER, 8, 5),
    )
    assert lost_markers(folder, "out") == []
