"""What is remembered of a billion records takes no more memory than is allowed."""

from __future__ import annotations

import random

import pytest

from workers.audit.seen import Seen
from workers.errors import Misconfigured

BILLION = 1_000_000_000


def test_records_leave_memory_and_come_back() -> None:
    rng = random.Random(7)
    offsets = rng.sample(range(BILLION), 2_000)
    with Seen(records=5) as seen:
        for number, offset in enumerate(offsets):
            assert not seen.add(0, offset, "whole", 1 if number % 2 else (1 << 999) | 5)
            assert seen.held <= 5
        rng.shuffle(offsets)
        assert all(seen.of(0, offset).any for offset in offsets)
        assert all(seen.add(0, offset, "whole", 1) for offset in offsets)
        assert seen.held <= 5


def test_what_was_noted_comes_back_as_it_was() -> None:
    with Seen(records=1) as seen:
        seen.add(0, 1, "partial", 1)
        seen.add(0, 1, "failed", 1)
        seen.add(0, 2, "record", 0)
        seen.add(0, 3, "whole", 1 << 70)
        assert [seen.answered(0, offset) for offset in range(4)] == [False, True, False, False]
        assert seen.of(0, 1).dead_letter
        assert seen.of(0, 2).record
        assert seen.of(0, 3).missing(72) == ((1 << 72) - 1) & ~(1 << 70)


def test_partitions_do_not_share_what_was_seen() -> None:
    with Seen(records=1) as seen:
        assert not seen.add(0, 5, "whole", 1)
        assert not seen.add(1, 5, "whole", 1)
        assert seen.answered(0, 5)
        assert not seen.answered(2, 5)


def test_what_was_seen_between_two_offsets_is_found_in_order() -> None:
    with Seen(records=2) as seen:
        for offset in (5_000, 0, 999, 1_000):
            seen.add(0, offset, "whole", 1)
        assert seen.between(0, 0, 6_000, 10) == [0, 999, 1_000, 5_000]
        assert seen.between(0, 1, 5_000, 10) == [999, 1_000]
        assert seen.between(0, 0, 6_000, 2) == [0, 999]


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
        with Seen(records=1) as seen:
            seen._stored.execute("PRAGMA max_page_count = 5")
            for number in range(5_000):
                seen.add(0, number, "whole", 1)

    with pytest.raises(Misconfigured, match="TMPDIR"):
        fill()
