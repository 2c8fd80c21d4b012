"""The promises of every record source, on the in-memory broker and on Apache Kafka."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.kafka_worlds import OwnTopics, assignments_of, partition_of, poll_for, poll_until, records_of
from tests.support.waiting import eventually
from workers.errors import Broken, Misconfigured
from workers.ports import RecordSource
from workers.types import Assignment


@pytest.fixture
def source(world: OwnTopics) -> RecordSource:
    return world.source()


def started(source: RecordSource, offset: int = 0) -> dict[int, Assignment]:
    assignments = assignments_of(source)
    for assignment in assignments.values():
        source.start(assignment, offset)
    return assignments


def shared(first: RecordSource, second: RecordSource) -> dict[int, Assignment]:
    """What the second is given while both poll."""
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(assignments_of, second, 1)
        poll_until(first, lambda *_: theirs.done())
    return theirs.result()


def test_nothing_is_delivered_of_an_assignment_that_was_not_started(source: RecordSource, world: OwnTopics) -> None:
    world.append(0, b"a")
    assignments = assignments_of(source)
    assert poll_for(source, 0.6) == []
    source.start(assignments[0], 0)
    assert [record.value for record in records_of(source, 1)] == [b"a"]


def test_an_assignment_is_delivered_from_the_offset_that_it_was_started_at(world: OwnTopics) -> None:
    for value in (b"0", b"1", b"2"):
        world.append(0, value)
    source = world.source()
    source.start(assignments_of(source)[0], 1)
    assert [(record.offset, record.value) for record in records_of(source, 2)] == [(1, b"1"), (2, b"2")]


def test_a_record_comes_with_null_key_null_value_and_repeated_headers_unchanged(world: OwnTopics) -> None:
    world.append(0, b"value", key=None, headers=(("h", b"1"), ("h", b"2"), ("ü", b"")))
    world.append(0, None, key=b"key")
    source = world.source()
    assignments = started(source)
    first, second = records_of(source, 2)
    assert (first.key, first.value, first.headers) == (None, b"value", (("h", b"1"), ("h", b"2"), ("ü", b"")))
    assert (second.key, second.value, second.headers) == (b"key", None, ())
    assert first.assignment is assignments[0]
    assert first.partition == partition_of(world, 0)
    assert first.timestamp_ms > 1_600_000_000_000


def test_the_end_of_a_partition_is_known_once_it_was_read(source: RecordSource, world: OwnTopics) -> None:
    for value in (b"0", b"1", b"2"):
        world.append(0, value)
    assignments = assignments_of(source)
    assert partition_of(world, 0) not in source.ends()
    source.start(assignments[0], 0)
    records_of(source, 3)
    assert source.ends()[partition_of(world, 0)] == 3


def test_markers_behind_the_last_record_do_not_count_and_its_position_moves_over_them(world: OwnTopics) -> None:
    """A marker and an aborted record: they would be lag for ever."""
    last = world.append(0, b"0")
    world.append_aborted(0, b"aborted")
    source = world.source()
    started(source)
    records_of(source, 1)
    eventually(lambda: poll_for(source, 0.1) or source.ends()[partition_of(world, 0)] == last + 1)
    # The aborted record, and a marker behind it.
    eventually(lambda: poll_for(source, 0.1) or source.positions()[partition_of(world, 0)] == 3)


def test_an_open_transaction_is_reported_until_it_ends_and_counts_as_lag_meanwhile(world: OwnTopics) -> None:
    first = world.append(0, b"before")
    abort = world.append_open(0, b"open")
    world.append(0, b"behind")
    world.append(1, b"beside")
    source = world.source()
    started(source)
    place = partition_of(world, 0)
    assert {record.value for record in records_of(source, 2)} == {b"before", b"beside"}
    eventually(lambda: poll_for(source, 0.1) or source.held_up().get(place, 0.0) > 0.3)
    assert list(source.held_up()) == [place]
    assert source.ends()[place] == first + 3
    abort()
    assert [record.value for record in records_of(source, 1)] == [b"behind"]
    eventually(lambda: poll_for(source, 0.1) or not source.held_up())


def test_records_of_an_aborted_transaction_are_a_gap(source: RecordSource, world: OwnTopics) -> None:
    world.append(0, b"before")
    world.append_aborted(0, b"aborted")
    after = world.append(0, b"after")
    started(source)
    assert [(record.offset, record.value) for record in records_of(source, 2)] == [(0, b"before"), (after, b"after")]
    assert after > 1


def test_a_batch_that_can_not_be_opened_is_one_record_for_all_its_offsets(world: OwnTopics) -> None:
    world.append(0, b"before")
    first = world.append_unreadable(0, 3)
    world.append(0, b"after")
    source = world.source()
    started(source)
    before, unopened, after = records_of(source, 3)
    assert (before.value, before.next_offset) == (b"before", first)
    assert (unopened.offset, unopened.next_offset, unopened.value) == (first, first + 3, None)
    assert unopened.unreadable is not None
    assert unopened.unreadable.reason == "batch-too-large"
    assert (after.offset, after.value, after.unreadable) == (first + 3, b"after", None)


def test_a_partition_can_be_paused_and_resumed_at_any_moment_without_loss(world: OwnTopics) -> None:
    for number in range(100):
        world.append(number % 2, b"%d" % number)
    source = world.source()
    started(source)
    offsets: dict[int, list[int]] = {0: [], 1: []}
    for turn in range(60):
        source.pause([partition_of(world, turn % 2)])
        for record in source.poll(0.02).records:
            offsets[record.partition.number].append(record.offset)
            assert record.partition.number != turn % 2
        source.resume([partition_of(world, turn % 2)])
        if turn < 20:
            world.append(0, b"more")
            world.append(1, b"more")
    missing = 140 - len(offsets[0]) - len(offsets[1])
    for record in records_of(source, missing):
        offsets[record.partition.number].append(record.offset)
    assert offsets == {0: list(range(70)), 1: list(range(70))}


def test_pausing_a_foreign_partition_is_ignored(source: RecordSource, world: OwnTopics) -> None:
    source.pause([partition_of(world, 0)])
    world.append(0, b"a")
    started(source)
    assert len(records_of(source, 1)) == 1
    source.pause([partition_of(world, 99)])
    source.resume([partition_of(world, 99)])


def test_a_partition_that_moves_to_a_new_member_ends_its_assignment_here_and_begins_one_there(world: OwnTopics) -> None:
    first, second = world.source(), world.source()
    assignments = started(first)
    ((moved, theirs),) = shared(first, second).items()
    assert not assignments[moved].current
    assert assignments[1 - moved].current
    world.append(moved, b"theirs")
    world.append(1 - moved, b"ours")
    second.start(theirs, 0)
    # Each is polled while the other is, as workers are: the group may still wait for one of them to join again.
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(records_of, second, 1)
        ours, _ = poll_until(first, lambda records, _: bool(records) and read.done())
    assert [record.value for record in read.result()] == [b"theirs"]
    assert [record.value for record in ours] == [b"ours"]


def test_a_retained_partition_continues_after_a_rebalance_at_its_position(world: OwnTopics) -> None:
    first, second = world.source(), world.source()
    assignments = started(first)
    world.append(0, b"0")
    world.append(1, b"0")
    records_of(first, 2)
    shared(first, second)
    (retained,) = (number for number, assignment in assignments.items() if assignment.current)
    world.append(retained, b"1")
    assert [(record.offset, record.assignment) for record in records_of(first, 1)] == [(1, assignments[retained])]


def test_the_partitions_of_a_member_that_leaves_begin_new_assignments_with_the_others(world: OwnTopics) -> None:
    first, second = world.source(), world.source()
    started(first)
    ((moved, theirs),) = shared(first, second).items()
    second.close()
    assert not theirs.current
    _, begun = poll_until(first, lambda _, started: bool(started))
    assert [assignment.partition.number for assignment in begun] == [moved]


def test_closing_ends_every_assignment_and_the_membership(source: RecordSource, world: OwnTopics) -> None:
    assignments = assignments_of(source)
    assert source.membership().generation >= 0
    source.close()
    assert not any(assignment.current for assignment in assignments.values())
    assert source.membership().generation < 0


def test_an_expelled_member_ends_its_assignments_and_begins_new_ones_when_it_polls(world: OwnTopics) -> None:
    source = world.source()
    assignments = started(source)
    world.expel(source)
    _, begun = poll_until(source, lambda _, started: len(started) == 2)
    assert not any(assignment.current for assignment in assignments.values())
    assert {assignment.member_id for assignment in begun} == {source.membership().member_id}
    assert all(assignment.current for assignment in begun)


def test_a_member_id_that_changed_without_a_callback_ends_assignments_and_begins_new_ones(world: OwnTopics) -> None:
    source = world.source()
    assignments = started(source)
    world.append(0, b"a")
    records_of(source, 1)
    world.rename(source)
    world.append(0, b"b")
    records, begun = poll_until(source, lambda _, started: len(started) == 2)
    records += poll_for(source, 0.5)
    assert not any(assignment.current for assignment in assignments.values())
    assert [record for record in records if record.assignment.current] == []
    assert {assignment.member_id for assignment in begun} == {source.membership().member_id}
    for assignment in begun:
        source.start(assignment, 0)
    again = records_of(source, 2)
    assert [(record.offset, record.assignment.current) for record in again] == [(0, True), (1, True)]


def test_an_assignment_ended_from_outside_begins_again_with_the_same_partition(world: OwnTopics) -> None:
    world.append(0, b"a")
    source = world.source()
    first = started(source)[0]
    assert len(records_of(source, 1)) == 1
    first.end()
    _, fresh = poll_until(source, lambda _, assignments: bool(assignments))
    assert [(assignment.partition, assignment.member_id) for assignment in fresh] == [
        (first.partition, first.member_id)
    ]
    source.start(fresh[0], 0)
    assert [(record.value, record.assignment) for record in records_of(source, 1)] == [(b"a", fresh[0])]


def test_a_pause_ends_with_its_assignment(source: RecordSource, world: OwnTopics) -> None:
    started(source)
    source.pause([partition_of(world, 0), partition_of(world, 1)])
    world.rename(source)
    world.append(0, b"a")
    started(source)
    assert len(records_of(source, 1)) == 1


def test_starting_an_ended_assignment_does_nothing(source: RecordSource, world: OwnTopics) -> None:
    old = started(source)
    world.rename(source)
    assignments = assignments_of(source)
    world.append(0, b"a")
    source.start(old[0], 0)
    assert poll_for(source, 0.5) == []
    source.start(assignments[0], 0)
    assert len(records_of(source, 1)) == 1


def test_an_offset_that_retention_has_deleted_is_named_with_the_gap(source: RecordSource, world: OwnTopics) -> None:
    for number in range(5):
        world.append(0, b"%d" % number)
    world.delete_records(0, 3)
    source.start(assignments_of(source)[0], 1)
    with pytest.raises(Broken, match=r"offset 1 of .*:0 is out of range \(3 to 5\): offsets 1 to 2 were deleted"):
        records_of(source, 1)


def test_an_offset_beyond_the_end_is_named(source: RecordSource, world: OwnTopics) -> None:
    world.append(0, b"a")
    source.start(assignments_of(source)[0], 7)
    with pytest.raises(Broken, match=r"offset 7 .* is out of range \(0 to 1\): the partition ends at 1"):
        records_of(source, 1)


def test_a_topic_that_does_not_exist_is_named(world: OwnTopics) -> None:
    source = world.source(topic="no-such-topic")
    with pytest.raises(Misconfigured, match="'no-such-topic' does not exist; create it"):
        source.poll(0.1)
    assert not source.joined()


def test_a_source_has_joined_once_the_group_has_taken_it_and_until_it_leaves(world: OwnTopics) -> None:
    source = world.source()
    assert not source.joined()
    assignments_of(source)
    assert source.joined()
    source.close()
    assert not source.joined()


def test_a_member_commits_for_itself_and_one_that_was_expelled_does_not(source: RecordSource, world: OwnTopics) -> None:
    assignment = started(source)[0]
    source.commit({assignment.partition: 3}, 10.0)
    assert world.committed() == {0: 3}
    world.expel(source)
    with pytest.raises(Exception, match=r"(?i)member|group|unpublished"):
        source.commit({assignment.partition: 5}, 10.0)
    assert world.committed() == {0: 3}
