"""The judge against one that keeps every outcome in a list and compares each with all before it."""

import random
from collections import defaultdict
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.audit.history import DEAD, IN, OUT, SKIPPED, dead_letter, judged, outcome, record
from workers.audit.seen import Seen
from workers.types import ReadRecord

STEP = 5_462
"""Between the offsets of two records: hardly two of them share a chunk, so that chunks come and go."""


class Made(NamedTuple):
    """An outcome before it is a record: the events that it answers, and how."""

    topic: str
    number: int
    of: int
    offset: int
    last: int
    kind: str
    indexes: tuple[int, ...]


def history(rng: random.Random) -> tuple[list[tuple[int, int, int]], list[Made]]:
    records: list[tuple[int, int, int]] = []
    outcomes: list[Made] = []
    for partition in range(2):
        offset = 0
        while offset < 12:
            if rng.random() < 0.1:
                length = rng.randint(2, 3)
                outcomes.append(Made(DEAD, 0, partition, offset * STEP, (offset + length - 1) * STEP, "record", (0,)))
                records += [(partition, (offset + step) * STEP, 1) for step in range(length) if rng.random() < 0.8]
                offset += length
                continue
            if rng.random() < 0.8:
                events = rng.choice((1, 1, 1, 2, 3))
                records.append((partition, offset * STEP, events))
                outcomes += made(rng, partition, offset * STEP, events)
            offset += 1
    for _ in range(rng.choice((0, 1, 2, 5))):
        spoil(rng, outcomes)
    # The topics are read one after the other, in any order, or all at once: each partition in its own order.
    queues: dict[tuple[str, int], list[Made]] = defaultdict(list)
    for one in outcomes:
        queues[one.topic, one.number].append(one)
    shown: list[Made] = []
    while queues:
        queue = rng.choice(sorted(queues))
        shown.append(queues[queue].pop(0))
        if not queues[queue]:
            del queues[queue]
    return records, shown


def made(rng: random.Random, partition: int, offset: int, events: int) -> list[Made]:
    images, failed = [], []
    for index in range(events):
        kind = rng.choice(("whole", "whole", "partial", "failed"))
        topic = OUT if kind == "partial" else rng.choice((OUT, SKIPPED))
        if kind != "failed":
            images.append(Made(topic, rng.randrange(2), partition, offset, offset, kind, (index,)))
        if kind != "whole":
            failed.append(index)
    dead = [Made(DEAD, 0, partition, offset, offset, "failed", tuple(failed))] if failed else []
    return images + dead


def spoil(rng: random.Random, outcomes: list[Made]) -> None:
    if not outcomes:
        return
    at = rng.randrange(len(outcomes))
    one = outcomes[at]
    match rng.choice(("lose", "double", "other", "late", "invent")):
        case "lose":
            del outcomes[at]
        case "double":
            outcomes.insert(rng.randint(at, len(outcomes)), one)
        case "other" if one.last == one.offset:
            kind = rng.choice(("whole", "partial", "failed", "record"))
            topic = DEAD if kind in ("failed", "record") else OUT
            indexes = (0,) if kind == "record" else one.indexes if kind == "failed" else one.indexes[:1]
            more = one._replace(topic=topic, number=0, kind=kind, indexes=indexes)
            outcomes.insert(rng.randint(at, len(outcomes)), more)
        case "late":
            outcomes.insert(rng.randint(at, len(outcomes) - 1), outcomes.pop(at))
        case "invent" if one.kind != "record":
            outcomes.insert(at, one._replace(offset=one.offset + 1, last=one.offset + 1))
        case _:
            pass


def written(one: Made, offset: int) -> ReadRecord:
    at = (one.topic, one.number, offset)
    if one.kind in ("whole", "partial"):
        status = "partial" if one.kind == "partial" else "complete"
        return outcome(one.offset, *one.indexes, of=one.of, at=at, status=status)
    reason = "batch-too-large" if one.kind == "record" else "broken-image"
    last = one.last if one.last > one.offset else None
    return dead_letter(one.offset, one.indexes, of=one.of, at=at, last=last, reason=reason)  # type: ignore[arg-type]


class BruteForce:
    """The state of each record, as sets, and all faults as (fault, record)."""

    def __init__(self, records: list[tuple[int, int, int]], shown: list[Made]) -> None:
        self.accepted: dict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)
        self.spans: list[Made] = []
        self.faults: list[tuple[str, int, int]] = []
        orders: dict[tuple[str, int, int], tuple[int, float]] = {}
        for one in shown:
            if self.again(one):
                self.faults.append(("doubled", one.of, one.offset))
                continue
            order = (one.offset, 99 if one.kind in ("failed", "record") else one.indexes[0])
            queue = (one.topic, one.number, one.of)
            if order < orders.get(queue, order):
                self.faults.append(("out-of-order", one.of, one.offset))
            else:
                orders[queue] = order
        there = {(partition, offset): events for partition, offset, events in records}
        for partition, offset, events in records:
            self.judge(partition, offset, events)
        for partition, offset in self.accepted:
            if (partition, offset) not in there:
                self.faults.append(("without-record", partition, offset))

    def again(self, one: Made) -> bool:
        if one.last > one.offset:
            overlaps = [s for s in self.spans if s.of == one.of and s.offset <= one.last and one.offset <= s.last]
            self.spans += [] if overlaps else [one]
            return bool(overlaps)
        has = self.accepted[one.of, one.offset]
        whole = {index for kind, index in has if kind == "whole"}
        partial = {index for kind, index in has if kind == "partial"}
        failed = {index for kind, index in has if kind == "failed"}
        refused = {
            "whole": whole | partial | failed,
            "partial": whole | partial,
            "failed": whole,
            "record": {0} if has else set(),
        }[one.kind]
        again = bool(refused & set(one.indexes)) or any(kind == "record" for kind, _ in has)
        again |= one.kind == "failed" and bool(failed)
        if not any(kind == "record" for kind, _ in has):
            has += [(one.kind, index) for index in one.indexes if index not in refused]
        if not has:
            del self.accepted[one.of, one.offset]
        return again

    def judge(self, partition: int, offset: int, events: int) -> None:
        has = self.accepted.get((partition, offset), [])
        if any(span.of == partition and span.offset <= offset <= span.last for span in self.spans):
            if has:
                self.faults.append(("doubled", partition, offset))
            return
        if ("record", 0) in has:
            return
        done = {index for kind, index in has if kind in ("whole", "failed")}
        if {index for _, index in has} - set(range(events)):
            self.faults.append(("without-record", partition, offset))
        if set(range(events)) - done:
            self.faults.append(("missing", partition, offset))


@pytest.mark.slow
@given(st.integers(0, 2**32))
@example(1)
def test_the_judge_finds_what_brute_force_finds(seed: int) -> None:
    records, shown = history(random.Random(seed))
    places: dict[tuple[str, int], int] = defaultdict(int)
    outcomes = []
    for one in shown:
        outcomes.append(written(one, places[one.topic, one.number]))
        places[one.topic, one.number] += 1
    end = 20 * STEP
    report = judged(
        [record(offset, events, partition=partition) for partition, offset, events in records],
        outcomes,
        ranges={0: (0, end), 1: (0, end)},
        seen=Seen(records=3),
    )
    mine = sorted((fault, one.record) for fault, ones in report.findings.items() for one in ones)
    theirs = sorted(
        (fault, f"{IN}:{partition}:{offset}") for fault, partition, offset in BruteForce(records, shown).faults
    )
    assert mine == theirs
    assert report.proved == (not theirs)
    assert not report.unverifiable
    assert report.outcomes == len(shown)


def test_some_histories_have_each_kind_of_fault_and_some_have_no_fault() -> None:
    kinds: set[str] = set()
    for seed in range(200):
        faults = BruteForce(*history(random.Random(seed))).faults
        kinds |= {fault for fault, _, _ in faults} or {"none"}
    assert kinds == {"missing", "doubled", "out-of-order", "without-record", "none"}
