"""The in-memory Kafka's extras for tests, beyond the contract with the real one."""

import threading

import pytest

from tagstream_testing.memory_broker import MemoryBroker, balanced
from tagstream_testing.memory_kafka import Fault, MemoryPublisher, MemoryRecordSource
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


@pytest.mark.parametrize(
    ("fault", "cause", "visible"),
    [
        (Fault.SEND, "send", 0),
        (Fault.OFFSETS_REFUSED, "membership", 0),
        (Fault.COMMIT_LOST, "timeout", 0),
        (Fault.COMMIT_UNACKNOWLEDGED, "timeout", 1),
        (Fault.FENCED, "fenced", 0),
    ],
)
def test_a_fault_fails_one_run_and_the_next_goes_through(
    broker: MemoryBroker, fault: Fault, cause: str, visible: int
) -> None:
    _, publisher, assignments = joined(broker)
    broker.fail_next(fault)
    with pytest.raises(Unpublished) as failed:
        publisher.publish(run(assignments[A]))
    assert failed.value.cause == cause
    publisher.recover()
    assert len(broker.visible("out")) == visible
    assert broker.committed("group").get(A, 0) == visible
    publisher.publish(run(assignments[A], 2))
    assert len(broker.visible("out")) == visible + 1


def test_readers_wait_behind_a_transaction_with_a_lost_commit(broker: MemoryBroker) -> None:
    _, publisher, assignments = joined(broker)
    broker.fail_next(Fault.COMMIT_LOST)
    with pytest.raises(Unpublished):
        publisher.publish(run(assignments[A]))
    broker.append("out", 0, None, b"behind")
    broker.append("out", 1, None, b"behind")
    assert len(broker.visible("out")) == 1
    publisher.recover()
    assert len(broker.visible("out")) == 2


def test_something_can_happen_between_the_messages_and_the_commit(broker: MemoryBroker) -> None:
    source, publisher, assignments = joined(broker)
    broker.before_commit = lambda: broker.rename("group", source.member)
    with pytest.raises(Unpublished, match="we are"):
        publisher.publish(run(assignments[A]))


def test_a_broker_that_is_away_answers_no_client_until_it_is_back(broker: MemoryBroker) -> None:
    source, publisher, assignments = joined(broker)
    broker.away = True
    broker.append("in", 0, None, b"value")
    assert source.poll(0.01).records == ()
    assert publisher.committed(assignments[A]) is None
    with pytest.raises(Unpublished, match="does not answer"):
        publisher.publish(run(assignments[A]))
    recovering = threading.Thread(target=publisher.recover)
    recovering.start()
    recovering.join(0.05)
    assert recovering.is_alive()
    broker.away = False
    recovering.join(30)
    publisher.publish(run(assignments[A]))


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
