"""The in-memory Kafka's extras for tests, beyond the contract with the real one."""

from tagstream_testing.memory_broker import MemoryBroker, balanced
from tagstream_testing.memory_kafka import MemoryRecordSource
from workers.types import Partition


def test_shares_are_made_even_with_as_few_moves_as_possible() -> None:
    broker = MemoryBroker()
    broker.create_topic("in", 2)
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
