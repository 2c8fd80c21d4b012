"""What every publisher promises, on the in-memory broker and on Apache Kafka.

The membership is asked between the messages and the commit, so a membership that does something first stands for what
can happen at that very moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.contract.conftest import opened
from tests.support.kafka_worlds import (
    MAX_MESSAGE_BYTES,
    World,
    assignments_of,
    poll_until,
)
from workers.errors import Broken, Misconfigured, Unpublished
from workers.ports import Publisher
from workers.types import NO_MEMBERSHIP, Assignment, Headers, Membership, Message, Transaction


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.servers)])
def world(request: pytest.FixtureRequest, unique: Callable[[str], str]) -> Iterator[World]:
    yield from opened(request.param, request, unique)


def transaction_of(world: World, offsets: dict[Assignment, int], *values: bytes) -> Transaction:
    return Transaction([Message(world.output, b"key", value, ()) for value in values], offsets)


def values(world: World) -> Sequence[bytes | None]:
    return [record.value for record in world.visible()]


class Interrupted:
    """A membership that lets something happen first, once."""

    def __init__(self, membership: Callable[[], Membership]) -> None:
        self._membership = membership
        self.happen: Callable[[], None] | None = None
        self.instead: Membership | None = None

    def __call__(self) -> Membership:
        happen, self.happen = self.happen, None
        if happen is not None:
            happen()
        instead, self.instead = self.instead, None
        return instead or self._membership()


def test_a_publisher_satisfies_the_port(world: World) -> None:
    publisher: Publisher = world.publisher(world.source())
    publisher.close()


def test_messages_and_offsets_are_there_when_publish_returns(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    publisher = world.publisher(source)
    publisher.publish(transaction_of(world, {assignments[0]: 5, assignments[1]: 7}, b"a", b"b"))
    assert values(world) == [b"a", b"b"]
    assert world.committed() == {0: 5, 1: 7}


def test_messages_of_a_run_are_invisible_until_it_is_committed(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    membership = Interrupted(source.membership)
    publisher = world.publisher(source, membership=membership)
    seen: list[Sequence[bytes | None]] = []
    membership.happen = lambda: seen.append(values(world))
    publisher.publish(transaction_of(world, {assignments[0]: 1}, b"a"))
    assert seen == [[]]
    assert values(world) == [b"a"]


def test_runs_are_visible_in_the_order_in_which_they_were_published(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    publisher = world.publisher(source)
    for number in range(5):
        publisher.publish(transaction_of(world, {assignments[0]: number + 1}, b"%da" % number, b"%db" % number))
    assert values(world) == [b"%d%s" % (number, end) for number in range(5) for end in (b"a", b"b")]


def test_a_run_without_messages_commits_its_offsets(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    world.publisher(source).publish(Transaction([], {assignments[0]: 3}))
    assert world.committed() == {0: 3}


def test_null_keys_null_values_and_repeated_headers_are_sent_as_they_are(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    headers = (("h", b"1"), ("h", b"2"), ("ü", b""))
    messages = [Message(world.output, None, b"value", headers), Message(world.output, b"key", None, ())]
    world.publisher(source).publish(Transaction(messages, {assignments[0]: 1}))
    first, second = world.visible()
    assert (first.key, first.value, first.headers) == (None, b"value", headers)
    assert (second.key, second.value, second.headers) == (b"key", None, ())


@pytest.mark.parametrize(
    ("topic", "key", "value", "headers", "said"),
    [
        (None, None, None, (), "a key or a value"),
        (None, b"key", b"value", (("name", None),), "value can't be null"),
        (None, b"key", b"v" * MAX_MESSAGE_BYTES, (), "too large"),
        ("elsewhere", b"key", b"value", (), "not one of the output topics"),
    ],
)
def test_a_message_that_no_publisher_can_send_is_a_bug_and_harms_nothing(
    world: World, topic: str | None, key: bytes | None, value: bytes | None, headers: Headers, said: str
) -> None:
    source = world.source()
    assignments = assignments_of(source)
    publisher = world.publisher(source)
    with pytest.raises(ValueError, match=said):
        publisher.publish(Transaction([Message(topic or world.output, key, value, headers)], {assignments[0]: 1}))
    publisher.publish(transaction_of(world, {assignments[0]: 1}, b"after"))
    assert values(world) == [b"after"]


def test_the_largest_message_that_it_says_to_take_is_taken_alone_and_in_company(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    publisher = world.publisher(source)
    assert publisher.max_message_bytes == {world.output: MAX_MESSAGE_BYTES}
    empty = Message(world.output, b"key", b"", (("name", b"value"),))
    large = Message(world.output, b"key", b"v" * (MAX_MESSAGE_BYTES - empty.size), empty.headers)
    assert large.size == MAX_MESSAGE_BYTES
    small = Message(world.output, b"key", b"small", ())
    publisher.publish(Transaction([small, large, small, large, large, small], {assignments[0]: 1}))
    assert [len(record.value or b"") for record in world.visible()] == [
        len(message.value or b"") for message in (small, large, small, large, large, small)
    ]


def test_an_assignment_that_ends_before_the_commit_takes_its_run_with_it(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    membership = Interrupted(source.membership)
    publisher = world.publisher(source, membership=membership)
    membership.happen = assignments[0].end
    with pytest.raises(Unpublished) as refused:
        publisher.publish(transaction_of(world, {assignments[0]: 1, assignments[1]: 1}, b"a"))
    assert refused.value.cause == "membership"
    publisher.recover()
    assert values(world) == []
    assert world.committed() == {}
    publisher.publish(transaction_of(world, {assignments[1]: 1}, b"b"))
    assert values(world) == [b"b"]
    assert world.committed() == {1: 1}


@pytest.mark.parametrize(
    "membership",
    [NO_MEMBERSHIP, Membership(1, "another-member"), Membership(-1, "")],
    ids=["none", "another member id", "reset by a failed heartbeat"],
)
def test_a_run_is_refused_under_any_membership_but_its_assignments_own(world: World, membership: Membership) -> None:
    source = world.source()
    assignments = assignments_of(source)
    live = Interrupted(source.membership)
    publisher = world.publisher(source, membership=live)
    live.instead = membership
    with pytest.raises(Unpublished) as refused:
        publisher.publish(transaction_of(world, {assignments[0]: 1}, b"a"))
    assert refused.value.cause == "membership"
    publisher.recover()
    assert (values(world), world.committed()) == ([], {})


def test_the_group_refuses_the_generation_of_an_earlier_join(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    live = Interrupted(source.membership)
    publisher = world.publisher(source, membership=live)
    generation, member_id = source.membership()
    live.instead = Membership(generation - 1 if generation > 0 else generation + 1, member_id)
    with pytest.raises(Unpublished) as refused:
        publisher.publish(transaction_of(world, {assignments[0]: 1}, b"a"))
    assert refused.value.cause == "membership"
    publisher.recover()
    assert (values(world), world.committed()) == ([], {})


def test_an_expelled_member_that_does_not_know_it_yet_publishes_nothing(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    known = source.membership()
    live = Interrupted(source.membership)
    publisher = world.publisher(source, membership=live)
    live.instead = known
    live.happen = lambda: world.expel(source)
    assert assignments[0].current
    with pytest.raises(Unpublished) as refused:
        publisher.publish(transaction_of(world, {assignments[0]: 1}, b"a"))
    assert refused.value.cause == "membership"
    publisher.recover()
    assert (values(world), world.committed()) == ([], {})


def test_after_a_failed_run_only_recover_may_follow(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    live = Interrupted(source.membership)
    publisher = world.publisher(source, membership=live)
    live.instead = NO_MEMBERSHIP
    with pytest.raises(Unpublished):
        publisher.publish(transaction_of(world, {assignments[0]: 1}, b"a"))
    with pytest.raises(RuntimeError, match="recover must come first"):
        publisher.publish(transaction_of(world, {assignments[0]: 1}, b"a"))


def test_offsets_of_a_failed_run_are_never_committed_with_a_later_one(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    live = Interrupted(source.membership)
    publisher = world.publisher(source, membership=live)
    generation, member_id = source.membership()
    # One that only the broker refuses: by then the client has queued the offsets.
    live.instead = Membership(generation + 1, member_id)
    with pytest.raises(Unpublished):
        publisher.publish(transaction_of(world, {assignments[0]: 9}, b"a"))
    publisher.recover()
    publisher.publish(transaction_of(world, {assignments[1]: 1}, b"b"))
    assert world.committed() == {1: 1}
    assert values(world) == [b"b"]


@pytest.mark.parametrize("happened", [True, False], ids=["it happened", "it did not"])
def test_after_a_commit_without_answer_the_committed_offset_tells_what_is_visible(world: World, happened: bool) -> None:
    source = world.source()
    assignments = assignments_of(source)
    publisher = world.publisher(source)
    publisher.publish(transaction_of(world, {assignments[0]: 1}, b"first"))
    world.fail_commit(publisher, happened=happened)
    with pytest.raises(Unpublished) as unknown:
        publisher.publish(transaction_of(world, {assignments[0]: 2}, b"second"))
    assert unknown.value.cause == "timeout"
    publisher.recover()
    assert publisher.committed(assignments[0]) == (2 if happened else 1)
    assert values(world) == ([b"first", b"second"] if happened else [b"first"])
    publisher.publish(transaction_of(world, {assignments[0]: 3}, b"third"))
    assert values(world)[-1] == b"third"


def test_a_second_publisher_with_our_transactional_id_fences_the_first(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    first = world.publisher(source)
    first.publish(transaction_of(world, {assignments[0]: 1}, b"first"))
    second = world.publisher(source)
    with pytest.raises(Unpublished) as fenced:
        first.publish(transaction_of(world, {assignments[0]: 2}, b"lost"))
    assert fenced.value.cause == "fenced"
    second.publish(transaction_of(world, {assignments[0]: 2}, b"second"))
    assert values(world) == [b"first", b"second"]


def test_a_transactional_id_that_is_taken_again_and_again_stops_the_worker(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    first = world.publisher(source)
    world.publisher(source)
    with pytest.raises(Unpublished):
        first.publish(transaction_of(world, {assignments[0]: 1}, b"a"))
    first.recover()
    first.publish(transaction_of(world, {assignments[0]: 1}, b"a"))
    world.publisher(source)
    with pytest.raises(Broken, match="another process has our transactional id"):
        first.publish(transaction_of(world, {assignments[0]: 2}, b"b"))
    assert values(world) == [b"a"]


def test_taking_the_id_again_ends_the_transaction_that_a_dead_worker_left_open(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    dead = world.publisher(source)
    world.fail_commit(dead, happened=False)
    with pytest.raises(Unpublished):
        dead.publish(transaction_of(world, {assignments[0]: 1}, b"left open"))
    alive = world.publisher(source)
    assert alive.committed(assignments[0]) == 0
    alive.publish(transaction_of(world, {assignments[0]: 1}, b"again"))
    assert values(world) == [b"again"]


def test_the_committed_offset_is_what_was_committed(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    publisher = world.publisher(source)
    publisher.publish(transaction_of(world, {assignments[0]: 4}))
    assert publisher.committed(assignments[0]) == 4


@pytest.mark.parametrize(("offset_reset", "first"), [("earliest", 2), ("latest", 3)])
def test_a_group_without_an_offset_begins_where_it_is_told_and_remembers(
    world: World, offset_reset: str, first: int
) -> None:
    for number in range(3):
        world.append(0, b"%d" % number)
    world.delete_records(0, 2)
    source = world.source()
    assignments = assignments_of(source)
    publisher = world.publisher(source, offset_reset="earliest" if offset_reset == "earliest" else "latest")
    assert publisher.committed(assignments[0]) == first
    assert world.committed() == {0: first}
    world.append(0, b"later")
    assert publisher.committed(assignments[0]) == first


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_the_committed_offset_of_an_ended_assignment_is_none_and_nothing_is_committed_for_it(
    world: World, delivery: str
) -> None:
    source = world.source()
    assignments = assignments_of(source)
    publisher = world.publisher(source, delivery="exactly_once" if delivery == "exactly_once" else "at_least_once")
    assignments[0].end()
    assert publisher.committed(assignments[0]) is None
    assert world.committed() == {}


def test_the_committed_offset_of_an_assignment_under_another_member_id_is_none(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    publisher = world.publisher(source)
    assert publisher.committed(Assignment(assignments[0].partition, "another-member")) is None
    assert world.committed() == {}


def test_the_committed_offset_is_not_told_while_a_transaction_on_it_is_pending(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    publisher = world.publisher(source)
    publisher.publish(transaction_of(world, {assignments[0]: 1}))
    commit = world.leave_pending(source, assignments[0], 5)
    assert publisher.committed(assignments[0]) is None
    commit()
    assert publisher.committed(assignments[0]) == 5


def test_a_new_generation_alone_does_not_stop_a_retained_partition(world: World) -> None:
    first, second = world.source(), world.source()
    assignments = assignments_of(first)
    publisher = world.publisher(first)
    before = first.membership().generation
    # Each member is polled by a thread of its own, as in life: two that take turns hold up each other's join.
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(poll_until, second, lambda _, started: bool(started))
        poll_until(first, lambda *_: begun.done())
        assert begun.result()
    assert first.membership().generation > before
    (retained,) = (assignment for assignment in assignments.values() if assignment.current)
    poll_until(first, lambda *_: published(publisher, transaction_of(world, {retained: 1}, b"a")))
    assert values(world) == [b"a"]


def published(publisher: Publisher, transaction: Transaction) -> bool:
    """Publish as the pipeline does: a refusal in the middle of a join is repaired and tried again."""
    try:
        publisher.publish(transaction)
    except Unpublished:
        publisher.recover()
        return False
    return True


def test_at_least_once_shows_messages_before_their_offsets_are_committed(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    live = Interrupted(source.membership)
    publisher = world.publisher(source, membership=live, delivery="at_least_once")
    seen: list[object] = []
    live.happen = lambda: seen.extend([values(world), world.committed()])
    publisher.publish(transaction_of(world, {assignments[0]: 1}, b"a"))
    assert seen == [[b"a"], {}]
    assert world.committed() == {0: 1}
    assert publisher.committed(assignments[0]) == 1


def test_at_least_once_commits_nothing_for_an_ended_assignment(world: World) -> None:
    source = world.source()
    assignments = assignments_of(source)
    live = Interrupted(source.membership)
    publisher = world.publisher(source, membership=live, delivery="at_least_once")
    live.happen = assignments[0].end
    with pytest.raises(Unpublished) as refused:
        publisher.publish(transaction_of(world, {assignments[0]: 1}, b"a"))
    assert refused.value.cause == "membership"
    publisher.recover()
    assert world.committed() == {}
    publisher.publish(transaction_of(world, {assignments[1]: 1}, b"b"))
    assert world.committed() == {1: 1}


def test_at_least_once_remembers_where_a_new_group_began(world: World) -> None:
    world.append(0, b"0")
    source = world.source()
    assignments = assignments_of(source)
    publisher = world.publisher(source, delivery="at_least_once", offset_reset="latest")
    assert publisher.committed(assignments[0]) == 1
    assert world.committed() == {0: 1}


def test_an_output_topic_that_does_not_exist_is_named(world: World) -> None:
    with pytest.raises(Misconfigured, match="'no-such-topic' does not exist; create it"):
        world.publisher(world.source(), topic="no-such-topic")
