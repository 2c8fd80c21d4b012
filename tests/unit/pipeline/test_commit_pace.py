"""When finished records are published: at once, or together with records in progress."""

from collections.abc import Callable, Mapping

import pytest

from tests.support.harness import IN, Harness
from workers.errors import Unpublished
from workers.pipeline.commit.ledger import Entry
from workers.pipeline.commit.publishing import LONGEST_PAUSE_S, PAUSE, Publishing
from workers.pipeline.options import WorkerOptions
from workers.pipeline.stages.stage import StageQueue
from workers.types import Assignment, Membership, Message, Partition, Record, Transaction


class _Slow:
    """A publisher that takes its time, on a clock of its own."""

    max_message_bytes: Mapping[str, int] = {"o": 1_000}
    lost: Mapping[Assignment, str] = {}

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s
        self.now = 1_000.0
        self.published: list[int] = []
        self.fails = False

    def publish(self, transaction: Transaction) -> None:
        self.now += self.takes_s
        if self.fails:
            raise Unpublished("timeout", "no answer")
        self.published.append(len(transaction.messages))

    def recover(self) -> None:
        return

    def committed(self, assignment: Assignment) -> int | None:
        return sum(self.published)

    def membership(self) -> Membership:
        return Membership(1, "m")


class _World:
    def __init__(self, takes_s: float = 0.02, outcomes: int = 500) -> None:
        self.publisher = _Slow(takes_s)
        self.pipeline = Harness().worker().make_pipeline(self.publisher)  # type: ignore[arg-type]
        self.assignment = Assignment(Partition(IN, 0), "m")
        self.pipeline.ledger.open(self.assignment, 0)
        options = WorkerOptions(output_topic="o", dead_letter_topic="d", transaction_outcomes=outcomes)
        self.publishing = Publishing(
            self.publisher,  # type: ignore[arg-type]
            self.pipeline,
            options,
            StageQueue(),
            StageQueue(),
            now=lambda: self.publisher.now,
        )
        self._offset = 0

    def begin(self, count: int = 1) -> list[Entry]:
        entries = []
        for _ in range(count):
            record = Record(self.assignment.partition, self._offset, 0, None, b"", (), self.assignment)
            entry = self.pipeline.ledger.admit(record, 0.0)
            assert entry is not None
            entries.append(entry)
            self._offset += 1
        return entries

    def done(self, *entries: Entry) -> None:
        for entry in entries:
            self.pipeline.ledger.fill(entry, (Message("o", None, b"outcome", ()),))

    def step(self) -> list[int]:
        before = len(self.publisher.published)
        self.publishing.step()
        return self.publisher.published[before:]


@pytest.fixture
def after_a_commit() -> Callable[..., _World]:
    def made(**options: float) -> _World:
        world = _World(**options)  # type: ignore[arg-type]
        world.done(*world.begin())
        assert world.step() == [1]
        return world

    return made


Made = Callable[..., _World]


def test_a_lone_record_is_published_at_once(after_a_commit: Made) -> None:
    world = after_a_commit()
    world.done(*world.begin(2))
    assert world.step() == [2]


def test_while_more_is_under_way_it_waits_three_times_as_long_as_the_last_commit_took(after_a_commit: Made) -> None:
    world = after_a_commit(takes_s=0.02)
    first, second = world.begin(2)
    world.done(first)
    world.publisher.now += PAUSE * 0.02 - 0.001
    assert world.step() == []
    world.publisher.now += 0.002
    assert world.step() == [1]
    world.done(second)
    assert world.step() == [1]


def test_the_wait_ends_with_the_last_record_in_progress(after_a_commit: Made) -> None:
    world = after_a_commit()
    first, second = world.begin(2)
    world.done(first)
    assert world.step() == []
    world.done(second)
    assert world.step() == [2]


def test_a_slow_commit_makes_the_next_one_wait_no_longer_than_a_moment(after_a_commit: Made) -> None:
    world = after_a_commit(takes_s=9.0)
    first, _ = world.begin(2)
    world.done(first)
    world.publisher.now += LONGEST_PAUSE_S + 0.001
    assert world.step() == [1]


def test_a_full_transaction_does_not_wait(after_a_commit: Made) -> None:
    world = after_a_commit(outcomes=3)
    entries = world.begin(5)
    world.done(*entries[:3])
    assert world.step() == [], "as many as fit, and no more are done"
    world.done(entries[3])
    assert world.step() == [3]


def test_finished_records_are_published_at_once_after_a_failed_commit(after_a_commit: Made) -> None:
    world = after_a_commit()
    world.publisher.now += 1.0
    first, _ = world.begin(2)
    world.done(first)
    world.publisher.fails = True
    assert world.step() == []
    world.publisher.fails = False
    assert world.step() == [1]
