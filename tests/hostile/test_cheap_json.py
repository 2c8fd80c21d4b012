"""JSON that is cheap to send and dear to read: other partitions go on while one is full of it."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest
import zstandard

from tests.hostile.scene import Batch, Scene
from tests.support.raw_kafka import GZIP, ZSTD, batch, record

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

GOOD_WITHIN_S = 10.0
BYTES = 4 << 20
"""Of JSON in one message; some 500 on the wire."""


def _lists(before: bytes) -> bytes:
    return before + b"[]," * ((BYTES - len(before) - 4) // 3) + b"[]]}"


def _members(before: bytes, count: int = 400_000) -> bytes:
    """No list in it, and each name another."""
    return before + b",".join(b'"%x":0' % number for number in range(count)) + b"}"


def _most(before: bytes) -> bytes:
    """All that may be read."""
    members = _members(before + b"[]," * 49_000 + b'[]],"x":"', 0)[:-1] + b"y" * 2_500_000 + b'",'
    return _members(members, 50_000)


def cheap_messages(times: int = 50) -> Iterator[Batch]:
    """Eight kinds, in turn."""
    zstd = zstandard.ZstdCompressor().compress
    made = [
        Batch(kind, batch([record(value)], attributes=codec, compress=compress))
        for kind, value in (
            ("an event with lists", _lists(b'{"schema":"image-event/1","x":[')),
            ("records that are lists", _lists(b'{"Records":[')),
            ("very many members", _members(b'{"Records":[],')),
            ("all that may be read", _most(b'{"Records":[')),
        )
        for codec, compress in ((ZSTD, zstd), (GZIP, gzip.compress))
    ]
    for _ in range(times):
        yield from made


def test_messages_that_are_cheap_to_send_hold_up_no_other_partition(scene: Scene) -> None:
    verdict = scene.attack("cheap JSON", list(cheap_messages()))
    assert sum(verdict.kinds.values()) == 400
    assert verdict.outcomes["enriched"] == 0
    assert verdict.others_s <= GOOD_WITHIN_S
