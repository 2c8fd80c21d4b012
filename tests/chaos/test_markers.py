"""Lost transaction markers are found in a broker's log, and only there."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.chaos.markers import LostMarker, lost_markers

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


def test_a_transaction_that_was_ended_and_one_of_another_producer_tell_of_none(tmp_path: Path) -> None:
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
