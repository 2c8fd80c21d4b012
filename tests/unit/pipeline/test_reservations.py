"""What a picture reserves of the budgets on its way."""

from __future__ import annotations

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
