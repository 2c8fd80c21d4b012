"""JSON that is cheap to send and dear to read: other partitions go on while one is full of it."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest
import zstandard

from tests.hostile.scene import Batch, Scene
from tests.support.raw_kafka import GZIP, ZSTD, batch, record

pytestmark = pytest.mark.timeout(300)

GOOD_WITHIN_S = 10.0
BYTES = 4 << 20
"""Of JSON in one message; some 500 on the wire."""


def _lists(before: bytes) -> bytes:
    return before + b"[]," * ((BYTES - len(before) - 4) // 3) + b"[]]}"


def _members(before: bytes) -> bytes:
    """No list in it, and each name another: what takes longest to read of what may be read."""
    return before + b",".join(b'"%x":0' % number for number in range((BYTES - len(before) - 1) // 10)) + b"}"


def cheap_messages() -> Iterator[Batch]:
    zstd = zstandard.ZstdCompressor().compress
    for _ in range(50):
        for kind, value in (
            ("an event with lists", _lists(b'{"schema":"image-event/1","x":[')),
            ("records that are lists", _lists(b'{"Records":[')),
        ):
            yield Batch(kind, batch([record(value)], attributes=ZSTD, compress=zstd))
            yield Batch(kind, batch([record(value)], attributes=GZIP, compress=gzip.compress))
    value = _members(b'{"Records":[],')
    for _ in range(5):
        yield Batch("many members", batch([record(value)], attributes=ZSTD, compress=zstd))


def test_messages_that_are_cheap_to_send_hold_up_no_other_partition(scene: Scene) -> None:
    verdict = scene.attack("cheap JSON", list(cheap_messages()))
    assert sum(verdict.kinds.values()) >= 200
    assert verdict.outcomes["enriched"] == 0
    assert verdict.others_s <= GOOD_WITHIN_S
