"""The ledger: whatever finishes when, what leaves is a prefix in record order, once."""

import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.dead_letter import Failure
from tests.support.tasks import record_at
from tests.support.waiting import ends, waiting
from workers.pipeline.commit.ledger import _JOB_BYTES, Entry, Ledger, Publishable, Rendered
from workers.types import Assignment, Message, Partition, Record, Unreadable

OUTCOME = (Failure(index=0, stage="parse", reason="schema", detail="x"),)
FOR_EVER = 600.0


def message(partition: Partition, offset: int) -> Message:
    return Message("out", None, f"{partition}@{offset}".encode(), ())


def finish(ledger: Ledger, entry: Entry) -> bool:
    ledger.expect(entry, 1)
    assert ledger.complete(entry, 0, OUTCOME)
    return ledger.fill(entry, [message(entry.record.partition, entry.record.offset)])


def admit(ledger: Ledger, assignment: Assignment, offset: int) -> Entry:
    entry = ledger.admit(record_at(assignment, offset), 0.0)
    assert entry is not None
    return entry


def opened(offset: int) -> tuple[Ledger, Assignment]:
    ledger, assignment = Ledger(), Assignment(Partition("in", 0), "m")
    ledger.open(assignment, offset)
    return ledger, assignment


def taken(ledger: Ledger, outcomes: int = 500, size: int = 10_000) -> Publishable:
    ready = ledger.ready(outcomes, size)
    assert ready is not None
    return ready


def values(ready: Publishable | None) -> list[bytes | None]:
    return [m.value for m in ready.transaction.messages] if ready is not None else []


def test_a_record_waits_for_those_before_it() -> None:
    ledger, assignment = opened(5)
    first, second = admit(ledger, assignment, 5), admit(ledger, assignment, 7)
    finish(ledger, second)
    assert ledger.ready(500, 10_000) is None
    finish(ledger, first)
    ready = taken(ledger)
    assert values(ready) == [b"in:0@5", b"in:0@7"]
    assert dict(ready.transaction.offsets) == {assignment: 8}


def repeated(ledger: Ledger, assignment: Assignment, first: int, count: int) -> Entry:
    one, *others = (record_at(assignment, offset) for offset in range(first, first + count))
    entry = ledger.admit(one, 0.0, others)
    assert entry is not None
    return entry


def test_records_that_repeat_one_leave_with_it_or_not_at_all() -> None:
    ledger, assignment = opened(5)
    several = repeated(ledger, assignment, 5, 3)
    with pytest.raises(ValueError, match="offset 7 came after 7"):
        admit(ledger, assignment, 7)
    finish(ledger, admit(ledger, assignment, 8))
    finish(ledger, several)
    ready = taken(ledger, 1, 10_000)
    assert (values(ready), dict(ready.transaction.offsets)) == ([b"in:0@5"], {assignment: 8})
    assert ledger.rewind(assignment, 5) == []
    assert [entry.record.offset for entry in ledger.rewind(assignment, 8)] == [5]
    assert ledger.jobs_ahead(assignment) == 1


def test_records_that_repeat_one_get_entries_of_their_own_in_its_place_and_nothing_is_counted_twice() -> None:
    ledger, assignment = opened(0)
    finish(ledger, admit(ledger, assignment, 0))
    one = repeated(ledger, assignment, 1, 3)
    finish(ledger, admit(ledger, assignment, 4))
    two = ledger.split(one)
    assert two is not None
    three = ledger.split(two)
    assert three is not None
    assert (ledger.records, ledger.under_way, ledger.jobs_ahead(assignment)) == (5, 3, 5)
    for entry in (three, one, two):
        assert finish(ledger, entry)
    ready = taken(ledger)
    assert values(ready) == [b"in:0@%d" % offset for offset in range(5)]
    ledger.settle(ready)
    assert (ledger.records, ledger.bytes, ledger.jobs_ahead(assignment)) == (0, 0, 0)


def test_of_an_ended_assignment_nothing_is_split() -> None:
    ledger, assignment = opened(0)
    several = repeated(ledger, assignment, 0, 3)
    assignment.end()
    ledger.close_ended()
    assert ledger.split(several) is None
    assert ledger.bytes == 0


def test_entries_filled_together_leave_together_and_those_of_an_ended_assignment_are_released() -> None:
    ledger, stays, left = Ledger(), Assignment(Partition("in", 0), "m"), Assignment(Partition("in", 1), "m")
    ledger.open(stays, 0)
    ledger.open(left, 0)
    entries = [admit(ledger, stays, 0), admit(ledger, left, 0), admit(ledger, stays, 1)]
    left.end()
    ledger.close_ended()
    filled = [(entry, [message(entry.record.partition, entry.record.offset)]) for entry in entries]
    assert ledger.fill_all(filled) == [entries[1]]
    assert values(ledger.ready(500, 10_000)) == [b"in:0@0", b"in:0@1"]


def test_who_waits_until_it_is_empty_waits_no_longer_than_for_the_commit_or_the_end_of_the_assignment() -> None:
    ledger, assignment = opened(0)
    ledger.wait_until_empty(FOR_EVER)
    entries = [admit(ledger, assignment, offset) for offset in range(2)]
    ledger.wait_until_empty(0.001)
    thread = waiting(ledger.wait_until_empty, FOR_EVER)
    for entry in entries:
        finish(ledger, entry)
        ready = taken(ledger)
        assert thread.is_alive()
        ledger.settle(ready)
    assert ends(thread)
    admit(ledger, assignment, 2)
    thread = waiting(ledger.wait_until_empty, FOR_EVER)
    assignment.end()
    ledger.close_ended()
    assert ends(thread)


def test_a_held_ledger_hands_out_nothing_and_its_caller_keeps_waiting() -> None:
    """Guard: `_held` in `wait`; without it the publish thread spins while the ledger is held."""
    ledger, assignment = opened(5)
    finish(ledger, admit(ledger, assignment, 5))
    ledger.hold()
    assert ledger.ready(500, 10_000) is None
    thread = waiting(ledger.wait, FOR_EVER)
    ledger.release()
    assert ends(thread)
    assert values(ledger.ready(500, 10_000)) == [b"in:0@5"]


def test_the_outcome_of_many_offsets_commits_all_of_them() -> None:
    ledger, assignment = opened(5)
    why = Unreadable("batch-too-large", "more than fits")
    batch = ledger.admit(Record(assignment.partition, 5, 0, None, None, (), assignment, 10, why), 0.0)
    assert batch is not None
    with pytest.raises(ValueError, match="offset 14 came after 14"):
        admit(ledger, assignment, 14)
    after = admit(ledger, assignment, 15)
    finish(ledger, batch)
    ready = taken(ledger)
    assert dict(ready.transaction.offsets) == {assignment: 15}
    assert ledger.rewind(assignment, 15) == [batch]
    assert assignment.current
    finish(ledger, after)
    assert values(ledger.ready(500, 10_000)) == [b"in:0@15"]


def test_a_run_is_taken_again_until_it_is_settled() -> None:
    ledger, assignment = opened(0)
    finish(ledger, admit(ledger, assignment, 0))
    ready = ledger.ready(500, 10_000)
    assert values(ledger.ready(500, 10_000)) == values(ready) == [b"in:0@0"]
    assert ready is not None
    ledger.settle(ready)
    assert ledger.ready(500, 10_000) is None
    assert (ledger.records, ledger.bytes, ledger.jobs_ahead(assignment)) == (0, 0, 0)


def test_a_record_is_done_when_every_index_is() -> None:
    ledger, assignment = opened(0)
    entry = admit(ledger, assignment, 0)
    ledger.expect(entry, 3)
    assert ledger.jobs_ahead(assignment) == 3
    assert not ledger.complete(entry, 2, OUTCOME)
    assert not ledger.complete(entry, 0, OUTCOME)
    assert ledger.complete(entry, 1, OUTCOME)


def test_an_index_that_completes_twice_is_a_bug() -> None:
    ledger, assignment = opened(0)
    entry = admit(ledger, assignment, 0)
    ledger.expect(entry, 2)
    ledger.complete(entry, 0, OUTCOME)
    with pytest.raises(ValueError, match="twice"):
        ledger.complete(entry, 0, OUTCOME)
    with pytest.raises(ValueError, match="not expected"):
        ledger.complete(entry, 2, OUTCOME)


def test_an_ended_assignment_is_not_taken_and_its_results_are_dropped() -> None:
    ledger, assignment = opened(0)
    done, late = admit(ledger, assignment, 0), admit(ledger, assignment, 1)
    finish(ledger, done)
    assignment.end()
    assert ledger.ready(500, 10_000) is None
    assert ledger.close_ended() == [assignment]
    assert not finish(ledger, late)
    assert ledger.admit(record_at(assignment, 2), 0.0) is None
    assert (ledger.records, ledger.bytes) == (0, 0)


def test_a_run_is_bounded_but_one_record_may_exceed_the_bound_alone() -> None:
    ledger, assignment = opened(0)
    big = admit(ledger, assignment, 0)
    ledger.expect(big, 1)
    ledger.complete(big, 0, OUTCOME)
    ledger.fill(big, [message(assignment.partition, n) for n in range(7)])
    for offset in (1, 2, 3):
        finish(ledger, admit(ledger, assignment, offset))
    ready = taken(ledger, 2, 10_000)
    assert len(ready.transaction.messages) == 7
    ledger.settle(ready)
    assert len(values(ledger.ready(2, 10_000))) == 2
    assert len(values(ledger.ready(500, 100))) == 1


def test_partitions_take_turns_in_bounded_runs() -> None:
    ledger = Ledger()
    assignments = [Assignment(Partition("in", number), "m") for number in range(2)]
    for assignment in assignments:
        ledger.open(assignment, 0)
        for offset in range(3):
            finish(ledger, admit(ledger, assignment, offset))
    seen = []
    while (ready := ledger.ready(2, 10_000)) is not None:
        seen.append(values(ready))
        ledger.settle(ready)
    assert seen[0] == [b"in:0@0", b"in:0@1"]
    assert seen[1] == [b"in:1@0", b"in:1@1"]


def test_after_an_unknown_commit_the_committed_offset_decides_which_outcomes_are_published_again() -> None:
    ledger, assignment = opened(0)
    entries = [admit(ledger, assignment, offset) for offset in range(4)]
    for entry in entries:
        finish(ledger, entry)
    assert ledger.rewind(assignment, 2) == entries[:2]
    assert values(ledger.ready(500, 10_000)) == [b"in:0@2", b"in:0@3"]
    assert ledger.rewind(assignment, 2) == []


def test_a_committed_offset_that_this_queue_cannot_have_made_ends_the_assignment() -> None:
    ledger, assignment = opened(0)
    finish(ledger, admit(ledger, assignment, 0))
    admit(ledger, assignment, 1)
    assert ledger.rewind(assignment, 2) == []
    assert not assignment.current


def test_a_finished_record_counts_by_its_size_until_it_leaves() -> None:
    ledger, assignment = opened(0)
    entry = admit(ledger, assignment, 0)
    before = ledger.bytes
    ledger.expect(entry, 2)
    one, two = (Message("out", None, bytes(size), ()) for size in (1_000, 5_000))
    ledger.complete(entry, 0, [Rendered(one, "enriched")])
    assert ledger.bytes == before + one.size + _JOB_BYTES
    ledger.complete(entry, 1, [Rendered(two, "enriched")])
    assert ledger.bytes == before + one.size + two.size
    entry.outcomes[1] = OUTCOME  # as of a message that its topic does not take
    ledger.fill(entry, [one])
    assert ledger.bytes == before + one.size
    ledger.refill(lambda _: [])
    assert ledger.bytes == before
    ready = taken(ledger)
    ledger.settle(ready)
    assert ledger.bytes == 0


def test_an_outcome_after_the_end_of_its_assignment_does_not_count() -> None:
    ledger, assignment = opened(0)
    entry = admit(ledger, assignment, 0)
    ledger.expect(entry, 2)
    ledger.complete(entry, 0, [Rendered(Message("out", None, bytes(1_000), ()), "enriched")])
    assignment.end()
    ledger.close_ended()
    ledger.complete(entry, 1, [Rendered(Message("out", None, bytes(1_000), ()), "enriched")])
    assert (ledger.records, ledger.bytes) == (0, 0)


class LedgerMachine(RuleBasedStateMachine):
    """Any order of completions, failures, revokes, regained partitions, commits and unknown commits."""

    partitions = (Partition("in", 0), Partition("in", 1))

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.published: dict[Partition, list[bytes | None]] = {p: [] for p in self.partitions}
        self.committed = dict.fromkeys(self.partitions, 0)
        self.assignments: dict[Partition, Assignment] = {}
        self.admitted: dict[Partition, int] = {}
        self.working: list[Entry] = []

    @rule(partition=st.sampled_from(partitions))
    def assign(self, partition: Partition) -> None:
        if partition in self.assignments:
            self.assignments[partition].end()
        self.ledger.close_ended()
        self.assignments[partition] = Assignment(partition, "m")
        self.ledger.open(self.assignments[partition], self.committed[partition])
        self.admitted[partition] = self.committed[partition]

    @precondition(lambda self: self.assignments)
    @rule(data=st.data(), gap=st.integers(0, 2))
    def poll(self, data: st.DataObject, gap: int) -> None:
        partition = data.draw(st.sampled_from(sorted(self.assignments)))
        offset = self.admitted[partition]
        entry = self.ledger.admit(record_at(self.assignments[partition], offset), 0.0)
        if entry is not None:
            self.admitted[partition] = offset + 1
            self.working.append(entry)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        entry = self.working.pop(data.draw(st.integers(0, len(self.working) - 1)))
        finish(self.ledger, entry)

    @precondition(lambda self: self.assignments)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        self.assignments.pop(data.draw(st.sampled_from(sorted(self.assignments)))).end()

    @rule(most=st.integers(1, 4), fate=st.sampled_from(["committed", "lost", "unknown, done", "unknown, not done"]))
    def publish(self, most: int, fate: str) -> None:
        ready = self.ledger.ready(most, 10_000)
        if ready is None:
            return
        if fate in ("committed", "unknown, done"):
            for m in ready.transaction.messages:
                assert m.value is not None
                self.published[Partition("in", int(m.value.split(b":")[1].split(b"@")[0]))].append(m.value)
            for assignment, offset in ready.transaction.offsets.items():
                self.committed[assignment.partition] = offset
        if fate == "committed":
            self.ledger.settle(ready)
        else:
            for assignment in self.ledger.assignments():
                if assignment.current:
                    self.ledger.rewind(assignment, self.committed[assignment.partition])
                    assert assignment.current, "our own commits end no assignment"

    @invariant()
    def what_is_published_is_a_prefix_in_order_exactly_once(self) -> None:
        for partition, seen in self.published.items():
            assert seen == [f"{partition}@{offset}".encode() for offset in range(self.committed[partition])]


TestLedgerMachine = pytest.mark.slow(LedgerMachine.TestCase)
TestLedgerMachine.settings = settings(max_examples=2 * settings().max_examples, stateful_step_count=40)


def test_the_last_record_wakes_a_waiting_thread_and_no_earlier_one_does() -> None:
    ledger, assignment = opened(0)
    first, second, last = [admit(ledger, assignment, offset) for offset in range(3)]
    finish(ledger, first)
    thread = waiting(ledger.wait_for_more, FOR_EVER, 500)
    finish(ledger, second)
    assert not ends(thread, 0.05)
    assert ledger.under_way == 1
    finish(ledger, last)
    assert ends(thread)
    assert ledger.under_way == 0


def test_a_thread_that_waits_for_more_is_woken_once_a_transaction_is_full() -> None:
    ledger, assignment = opened(0)
    entries = [admit(ledger, assignment, offset) for offset in range(4)]
    thread = waiting(ledger.wait_for_more, FOR_EVER, 2)
    finish(ledger, entries[0])
    assert not ends(thread, 0.05)
    finish(ledger, entries[1])
    assert ends(thread)


def test_no_thread_waits_for_more_where_nothing_is_under_way() -> None:
    ledger, assignment = opened(0)
    finish(ledger, admit(ledger, assignment, 0))
    dropped = admit(ledger, assignment, 1)
    assert ledger.under_way == 1
    assignment.end()
    ledger.close_ended()
    assert ledger.under_way == 0
    assert ledger.fill(dropped, []) is False
    assert ledger.under_way == 0
    began = time.monotonic()
    ledger.wait_for_more(30.0, 500)
    assert time.monotonic() - began < 10


def test_a_record_behind_one_that_is_under_way_wakes_no_thread() -> None:
    ledger, assignment = opened(0)
    first, second = admit(ledger, assignment, 0), admit(ledger, assignment, 1)
    thread = waiting(ledger.wait, FOR_EVER)
    finish(ledger, second)
    assert not ends(thread, 0.05)
    finish(ledger, first)
    assert ends(thread)
