"""A reader that keeps the largest `version` ends with what the store has, whatever became of the events on their way.

Random histories go through a whole pipeline, over a store that dates its answers in whole seconds as HTTP does; what
comes out is read in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from random import Random

import pytest

from schemas.enriched_image import EnrichedImage, Retraction
from tests.support.harness import BUCKET, png
from tests.support.histories import UNDECIDABLE, Delivery, History, histories, moment, own, value
from tests.support.manual_pipeline import ManualPipeline
from tests.support.readme_reader import readme_reader
from workers.types import Document

START = 1_800_000_000_000
BODIES = [png(colour) for colour in ((250, 20, 20), (20, 250, 20), (20, 20, 250))]
READER = readme_reader()


class Life:
    """Many histories at once, on one clock."""

    def __init__(self, lived: Iterable[History]) -> None:
        self.manual = ManualPipeline(partitions=1)
        self.lived = list(lived)
        self._of_records: dict[int, History] = {}
        self._events: dict[Delivery, dict[str, object]] = {}

    def run(self) -> None:
        steps: list[tuple[int, int, History, int | Delivery]] = []
        for history in self.lived:
            steps += [(change.at, 0, history, number) for number, change in enumerate(history.changes)]
            steps += [(each.seen, 1, history, each) for each in history.deliveries if each.change is None]
            steps += [(each.at, 2, history, each) for each in history.deliveries]
        steps.sort(key=lambda step: step[:2])
        for (at, kind), together in groupby(steps, key=lambda step: step[:2]):
            self.manual.clock.advance(at / 1000 - self.manual.clock.wall())
            for _, _, history, what in together:
                if isinstance(what, int):
                    self._change(history, what)
                elif kind == 1:
                    self._list(history, what)
                else:
                    self._deliver(history, what)
            if kind == 2:
                self.manual.turn()
                self.manual.commit_all()
        self.manual.turns(120, 1.0)

    def _change(self, history: History, number: int) -> None:
        change, store = history.changes[number], self.manual.store
        if change.content is None:
            store.remove(BUCKET, history.key)
            history.names.append("")
            return
        stored = store.put(BUCKET, history.key, BODIES[change.content])
        history.names.append(stored.version_id or "")
        if history.aged:
            versions = store._buckets[BUCKET][history.key]
            versions[-1] = replace(stored, last_modified=moment((change.at - history.aged) // 1000 * 1000))

    def _list(self, history: History, delivery: Delivery) -> None:
        """As `tagstream emit` does: an event for what the listing shows, at the time of that answer."""
        stored = self.manual.store._buckets[BUCKET][history.key][-1]
        if stored is not None:
            at = delivery.seen // 1000 * 1000
            self._events[delivery] = own(history.key, etag=stored.etag, event_time=moment(at))

    def _deliver(self, history: History, delivery: Delivery) -> None:
        if delivery.change is None:
            event = self._events.get(delivery)
        else:
            content = history.changes[delivery.change].content
            etag = _etag(content) if content is not None else ""
            event = history.event(delivery.change, etag, history.names[delivery.change])
        if event is not None:
            self._of_records[self.manual.send(value(event))] = history

    def outcomes(self) -> dict[str, list[bytes]]:
        """What became of the events, by key."""
        found: dict[str, list[bytes]] = {history.key: [] for history in self.lived}
        for (_, offset, _), outcomes in self.manual.done.items():
            for outcome in outcomes:
                assert isinstance(outcome, Document), outcome
                found[self._of_records[offset].key].append(outcome.value)
        assert len(self.manual.done) == len(self._of_records), "an event has no outcome"
        return found


def _etag(content: int) -> str:
    return ETAGS[content]


ETAGS = [ManualPipeline().store.put(BUCKET, "a", body).etag for body in BODIES]


def _ends_right(history: History, values: list[bytes], random: Random) -> bool:
    held: dict[bytes, EnrichedImage | Retraction] = {}
    random.shuffle(values)
    for each in values:
        READER["index"](each, held)
    image, content = READER["shown"](f"{BUCKET}/{history.key}", held), history.changes[-1].content
    if content is None or image is None:
        return content is None and image is None
    return bool(image.source.etag == _etag(content))


def tried(seed: int, count: int) -> tuple[Counter[str], list[History]]:
    """How many histories could be decided, by dialect; how many not, by why; and those that ended wrong."""
    life = Life(histories(seed, count, START))
    life.run()
    random, outcomes = Random(seed), life.outcomes()
    counts: Counter[str] = Counter()
    wrong = []
    for history in life.lived:
        counts[history.undecidable or history.dialect] += 1
        if not history.undecidable and not _ends_right(history, outcomes[history.key], random):
            wrong.append(history)
    return counts, wrong


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 50))])
def test_the_largest_version_is_what_the_store_has(seed: int) -> None:
    counts, wrong = tried(seed, 400)
    assert wrong == []
    assert set(counts) <= {"s3", "plain", "bridge", "timeless", *UNDECIDABLE}
    assert sum(counts[each] for each in UNDECIDABLE) < 400 / 5
