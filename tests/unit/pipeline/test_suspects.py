"""Before a decoder gets an image: what the journal says of it, and whether it is still wanted."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest

from schemas.dead_letter import Failure
from tagstream_testing.memory import MemoryObjectStore
from tests.support.harness import IN, ColourTagger
from tests.support.manual_pipeline import ManualPipeline
from workers.intake.inline import InlineIntake
from workers.pipeline.journal import Journal
from workers.types import Coordinates, DecodedImage, Facts, Fetched

FIRST = Coordinates(IN, 0, 0, 0)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Of a process that died with the first image in hand."""
    path = tmp_path / "journal"
    Journal(path).enter(FIRST)
    return path


def three(journal: Path) -> ManualPipeline:
    manual = ManualPipeline(journal=journal)
    manual.put("0", "1", "2")
    manual.events("0", "1", "2")
    return manual


def test_a_suspect_runs_with_no_other_in_hand_and_is_cleared(journal: Path) -> None:
    manual = three(journal)
    manual.turn()
    assert manual.tagger.batches == [1, 2]
    assert len(manual.done) == 3
    assert Journal(journal).suspects == frozenset()


def test_a_suspect_that_is_dropped_is_suspected_where_it_comes_next(journal: Path) -> None:
    manual = three(journal)
    manual.pipeline.parse.work()
    manual.pipeline.lookup.work()
    manual.assignments[0].end()
    manual.turn()
    assert manual.tagger.batches == []
    assert Journal(journal).suspects == {FIRST}


def test_an_image_that_is_poison_is_not_read_and_those_beside_it_are(journal: Path) -> None:
    for _ in range(2):
        Journal(journal).enter(FIRST)
    manual = three(journal)
    manual.turn()
    assert manual.reads == ["1", "2"]
    [failure] = manual.done[0, 0, 0]
    assert isinstance(failure, Failure)
    assert (failure.index, failure.reason) == (0, "kills-worker")
    assert len(manual.done) == 3


class Decodes(InlineIntake):
    """Holds every image until it is told to decode it."""

    def __init__(self, store: MemoryObjectStore) -> None:
        super().__init__(store, [ColourTagger.transform])
        self.held: list[tuple[Future[DecodedImage], Fetched, Facts]] = []

    def decode(self, fetched: Fetched, facts: Facts) -> Future[DecodedImage]:
        self.held.append((Future(), fetched, facts))
        return self.held[-1][0]

    def go_on(self) -> None:
        future, fetched, facts = self.held.pop(0)
        future.set_result(super().decode(fetched, facts).result())


def test_an_image_whose_assignment_ended_while_it_waited_for_room_is_not_decoded() -> None:
    """Guard: the question once more when there is room; a decoder and its memory would go to what no one awaits."""
    intakes: list[Decodes] = []

    def make(store: MemoryObjectStore) -> Decodes:
        intakes.append(Decodes(store))
        return intakes[0]

    manual = ManualPipeline(partitions=2, make_intake=make, decoded_bytes=1)
    manual.put("a", "b")
    manual.events("a", partition=0)
    manual.events("b", partition=1)
    manual.turn()
    assert manual.in_flight == {"decode": 1, "wait-decode": 1}
    manual.assignments[1].end()
    [intake] = intakes
    intake.go_on()
    manual.turn()
    assert intake.held == []
    assert sorted(manual.done) == [(0, 0, 0)]
    assert (manual.in_flight, manual.pipeline.decode.budget.used) == ({}, 0)
