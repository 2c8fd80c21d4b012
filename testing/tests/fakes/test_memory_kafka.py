"""The in-memory Kafka's extras for tests, beyond the contract with the real one."""

import pytest

from tagstream_testing.memory_broker import MemoryBroker, balanced
from tagstream_testing.memory_kafka import MemoryPublisher, MemoryRecordSource
from workers.errors import Unpublished
from workers.types import Assignment, Message, Partition, Transaction

A, B = Partition("in", 0), Partition("in", 1)


@pytest.fixture
def broker() -> MemoryBroker:
    made = MemoryBroker()
    made.create_topic("in", 2)
    made.create_topic("out", 2)
    return made


def joined(broker: MemoryBroker) -> tuple[MemoryRecordSource, MemoryPublisher, dict[Partition, Assignment]]:
    source = MemoryRecordSource(broker, "group", ["in"])
    publisher = MemoryPublisher(broker, "group", "one", membership=source.membership, output_topics=["out"])
    assignments = {assignment.partition: assignment for assignment in source.poll(0).started}
    return source, publisher, assignments


def run(assignment: Assignment, offset: int = 1, value: bytes = b"value") -> Transaction:
    return Transaction([Message("out", b"key", value, ())], {assignment: offset})


def test_a_generation_that_the_member_has_not_heard_of_refuses_its_commits_until_it_polls(broker: MemoryBroker) -> None:
    source, publisher, assignments = joined(broker)
    broker.outdate("group")
    with pytest.raises(Unpublished, match="generation"):
        publisher.publish(run(assignments[A]))
    publisher.recover()
    source.poll(0)
    assert assignments[A].current
    publisher.publish(run(assignments[A]))


def test_an_expelled_member_that_noticed_has_no_membership_although_its_assignments_look_current(
    broker: MemoryBroker,
) -> None:
    source, publisher, assignments = joined(broker)
    broker.expel("group", source.member, noticed=True)
    assert assignments[A].current
    with pytest.raises(Unpublished, match="not a member"):
        publisher.publish(run(assignments[A]))


def test_shares_are_made_even_with_as_few_moves_as_possible(broker: MemoryBroker) -> None:
    first, second, third = (MemoryRecordSource(broker, "group", ["in"]).member for _ in range(3))
    partitions = [Partition("in", number) for number in range(6)]
    alone = balanced(partitions, {}, [first])
    assert set(alone.values()) == {first}
    two = balanced(partitions, alone, [first, second])
    assert sorted(sum(owner is member for owner in two.values()) for member in (first, second)) == [3, 3]
    three = balanced(partitions, two, [first, second, third])
    assert sum(three[partition] is two[partition] for partition in partitions) == 4
    assert balanced(partitions, three, [first, second, third]) == three
    assert balanced(partitions, three, []) == {}
