"""Random lives of objects, corrections and retaggings: a reader by `version` ends with the newest state of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from schemas.correction import Word
from tagstream_testing.memory_kafka import Fault
from tests.unit.retag.retagging import TOPIC, Retagging, V
from tests.unit.retag.stored import SHA256, today
from workers.retag.plan_file import PlanFile

UNDECIDABLE: Mapping[str, str] = {
    "within-microseconds": "two states that hold less apart than there are retaggings of the first: each adds one",
    "two-settings": "a worker of older settings publishes an outcome, with a later look at the store, after the plan",
    "compacted-early": "compaction meets a subject whose newest outcome is not its last record, and drops it",
    "unheard": "a correction after the start of a run, without an event",
}
"""Histories that this test leaves out, by name."""

APART_US = 50
THRESHOLDS = (0.5, 0.3, 0.6, 0.2)
CONTENTS: tuple[dict[str, float], ...] = ({"red": 0.9, "green": 0.4}, {"blue": 0.55, "grey": 0.25}, {"red": 0.7})
WORDS = (Word((), ()), Word(("teal",), ()), Word((), ("red",)))
"""The first withdraws all earlier corrections."""


@dataclass(frozen=True)
class State:
    """The state of an object from `since` on.

    Args:
        content: number in `CONTENTS`; None: it is gone.
    """

    since: int
    content: int | None


class ChangingObjects:
    def __init__(self, seed: int, folder: Path) -> None:
        self.random = Random(seed)
        self.scene = Retagging(folder)
        self.settings = [today(folder / str(number), thresholds=each) for number, each in enumerate(THRESHOLDS)]
        self.at = V
        self.current = 0
        self.states: dict[str, State] = {}
        self.words: dict[str, Word | None] = {}
        self.pending: list[Callable[[], object]] = []
        self.keys = [f"{number}.png" for number in range(6)]
        self._use(0)

    def step(self) -> None:
        self.at += self.random.choice((APART_US, 1_000, 5_000_000))
        key = self.random.choice(self.keys)
        self.random.choices((self.change, self.correct, self.look_again, self.publish), (3, 1, 1, 4))[0](key)

    def change(self, key: str) -> None:
        there = key in self.states and self.states[key].content is not None
        gone = there and self.random.random() < 0.25
        self.states[key] = state = State(self.at, None if gone else self.random.randrange(len(CONTENTS)))
        for _ in range(self.random.choice((1, 1, 2))):
            self.answer(key, state, state.since)

    def look_again(self, key: str) -> None:
        if key in self.states:
            self.answer(key, self.states[key], self.at)

    def correct(self, key: str) -> None:
        added, removed, _ = self.random.choice(WORDS)
        self.scene.say(key, *added, removed=removed)
        self.words[key] = self.scene.corrections.on(f"photos/{key}", SHA256)
        self.at += APART_US
        self.look_again(key)

    def answer(self, key: str, state: State, version: int) -> None:
        by, word = self.settings[self.current], self.words.get(key)
        if state.content is None:
            self.pending.append(lambda: self.scene.retraction(key, version))
        else:
            scores = CONTENTS[state.content]
            self.pending.append(lambda: self.scene.outcome(key, version, by=by, scores=scores, word=word))

    def publish(self, _key: str = "") -> None:
        if self.pending:
            self.pending.pop(self.random.randrange(len(self.pending)))()

    def publish_all(self) -> None:
        while self.pending:
            self.publish()

    def _use(self, number: int) -> None:
        self.current = number
        self.scene.now = self.settings[number]

    def change_settings(self) -> PlanFile:
        self._use((self.current + 1) % len(self.settings))
        self.publish_all()
        return self.scene.plan(f"plan-{self.at}")

    def go(self, plan: PlanFile) -> None:
        """Carry the plan out during other work, kills, faults and compaction."""
        beside = self.random.random() < 0.5
        self.scene.topic.before = self.step if beside else _nothing
        if self.random.random() < 0.6 and all(map(self.newest_is_last, self.states)):
            self.scene.broker.compact(TOPIC)
        if self.random.random() < 0.4:
            self.scene.killed(plan, self.random.randrange(3))
        if self.random.random() < 0.4:
            self.scene.broker.fail_next(self.random.choice([each for each in Fault if each is not Fault.FENCED]))
        self.step()
        assert self.scene.go(plan).finished
        self.scene.topic.before = _nothing

    def newest_is_last(self, key: str) -> bool:
        versions = [int(each["version"]) for each in self.scene.documents(key)]
        return versions[-1:] == [max(versions, default=0)] or not versions

    def expected(self, key: str) -> set[str] | None:
        content = self.states[key].content
        if content is None:
            return None
        shown = {name for name, score in CONTENTS[content].items() if score > THRESHOLDS[self.current]}
        word = self.words.get(key) or Word((), ())
        return (shown | set(word.added)) - set(word.removed)


def _nothing() -> None:
    """No worker publishes during the run."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_reader_by_version_and_one_by_compaction_end_with_the_newest_state(seed: int, tmp_path: Path) -> None:
    world = ChangingObjects(seed, tmp_path)
    for _ in range(3):
        for _ in range(15):
            world.step()
        plan = world.change_settings()
        for _ in range(world.random.randrange(6)):
            world.step()
        world.go(plan)
    world.publish_all()
    world.go(world.scene.plan("last"))
    world.publish_all()
    world.go(world.scene.plan("very last"))
    world.publish_all()
    report = world.scene.go(world.scene.plan("end"))
    again = world.scene.go(world.scene.plan("after the end"))
    assert (again.planned, again.repeated) == (0, 0), report
    for key in world.states:
        documents = world.scene.documents(key)
        newest, last = max(documents, key=lambda each: int(each["version"])), documents[-1]
        assert world.newest_is_last(key)
        for found in (newest, last):
            tags = {tag["name"] for tag in found["tags"]} if found["schema"] == "enriched-image/1" else None
            assert tags == world.expected(key), (key, found)
