"""What a picture reserves of the budgets on its way."""

from __future__ import annotations

import gc
import tracemalloc
from concurrent.futures import Future
from dataclasses import replace

from tests.unit.pipeline.by_hand import ByHand
from tests.unit.pipeline.rig import BUCKET, ColourTagger, png
from workers.backends.memory import MemoryObjectStore
from workers.intake.inline import InlineIntake
from workers.vocabulary import Fetched, Job


class _Copying(InlineIntake):
    """Decodes from a copy of an object's bytes, as children do."""

    def __init__(self, copied_bytes: int) -> None:
        store = MemoryObjectStore()
        store.make_bucket(BUCKET)
        store.put(BUCKET, "a", png((1, 2, 3)))
        super().__init__(store, [ColourTagger().transform])
        self._copied_bytes = copied_bytes

    def fetch(self, job: Job) -> Future[Fetched]:
        found: Future[Fetched] = Future()
        found.set_result(replace(super().fetch(job).result(), copied_bytes=self._copied_bytes))
        return found


def test_a_decode_reserves_the_copy_that_it_works_on() -> None:
    """Guard: without it a child's copy of the encoded bytes is memory that no budget counts."""
    lines = []
    for copied_bytes in (0, 5_000):
        hand = ByHand(intake=_Copying(copied_bytes))
        hand.events("a")
        hand.turn()
        assert len(hand.done) == 1
        lines.append(hand.line)
    assert lines[1].decoded.peak == lines[0].decoded.peak + 5_000
    assert [line.decoded.used for line in lines] == [0, 0]


def test_what_waits_for_its_commit_holds_no_more_memory_than_its_ledger_counts() -> None:
    """Guard: an outcome that stays the document that it was takes three times what is counted for its message."""
    hand = ByHand()
    hand.put("a")
    hand.events(*["a"] * 50)
    hand.turn()
    gc.collect()
    tracemalloc.start()
    try:
        held, counted = tracemalloc.get_traced_memory()[0], hand.line.ledger.bytes
        hand.done.clear()
        hand.events(*["a"] * 300)
        hand.turn()
        assert len(hand.done) == 300
        hand.done.clear()
        gc.collect()
        held, counted = tracemalloc.get_traced_memory()[0] - held, hand.line.ledger.bytes - counted
    finally:
        tracemalloc.stop()
    assert len(hand.line.ledger.take(1_000, 10_000_000).entries) == 350  # type: ignore[union-attr]
    assert counted > 300 * 1_000
    assert held < 1.2 * counted
