"""What is remembered of a billion records takes no more memory than is allowed."""

from __future__ import annotations

import random

import pytest

from workers.audit.seen import CHUNK, Seen
from workers.errors import Misconfigured

BILLION = 1_000_000_000


def test_chunks_that_were_not_used_of_late_leave_memory_and_come_back() -> None:
    rng = random.Random(7)
    offsets = rng.sample(range(BILLION), 2_000)
    with Seen(chunks=4, several=5) as seen:
        for number, offset in enumerate(offsets):
            assert not seen.add(0, offset, "whole", 1 if number % 2 else 0b101)
            chunks, several = seen.held
            assert chunks <= 4
            assert several <= 5 + 1
        rng.shuffle(offsets)
        assert all(seen.of(0, offset).any for offset in offsets)
        assert all(seen.add(0, offset, "whole", 1) for offset in offsets)
        assert seen.held[0] <= 4


def test_partitions_do_not_share_what_was_seen() -> None:
    with Seen(chunks=1) as seen:
        assert not seen.add(0, 5, "whole", 1)
        assert not seen.add(1, 5, "whole", 1)
        assert seen.answered(0, 5)
        assert not seen.answered(2, 5)


def test_what_was_seen_between_two_offsets_is_found_in_every_chunk() -> None:
    with Seen(chunks=1) as seen:
        for offset in (0, CHUNK - 1, CHUNK, 5 * CHUNK):
            seen.add(0, offset, "whole", 1)
        assert seen.between(0, 0, 6 * CHUNK, 10) == [0, CHUNK - 1, CHUNK, 5 * CHUNK]
        assert seen.between(0, 1, 5 * CHUNK, 10) == [CHUNK - 1, CHUNK]
        assert seen.between(0, 0, 6 * CHUNK, 2) == [0, CHUNK - 1]


def test_a_key_supersedes_what_came_before_it_or_may_have() -> None:
    with Seen() as seen:
        seen.note_key(b"a", 0, 10)
        seen.note_key(b"a", 0, 7)
        assert seen.superseded(b"a", 0, 10)
        assert not seen.superseded(b"a", 0, 11)
        assert seen.superseded(b"a", 1, 11), "another partition: which came first can't be told"
        assert not seen.superseded(b"b", 0, 1)
        seen.note_key(b"a", 0, 20)
        seen.note_key(b"a", 0, 3)
        assert seen.superseded(b"a", 0, 20), "after the first were stored too"


def test_a_temporary_file_without_room_is_told_in_a_sentence() -> None:
    def fill() -> None:
        with Seen(chunks=1) as seen:
            seen._stored.execute("PRAGMA max_page_count = 5")
            for number in range(1_000):
                seen.add(0, number * CHUNK, "whole", 1)

    with pytest.raises(Misconfigured, match="TMPDIR"):
        fill()
