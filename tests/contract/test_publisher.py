"""The promises of every publisher, on the in-memory broker and on Apache Kafka.

The publisher asks for the membership between the messages and the commit, so a membership with a side effect stands for
an event at that very moment.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.kafka_worlds import MAX_MESSAGE_BYTES, OwnTopics, assignments_of, poll_until
from workers.backends.kafka.types import Delivery, OffsetReset
from workers.errors import Broken, Misconfigured, Unpublished
from workers.ports import Publisher
from workers.types import NO_MEMBERSHIP, Assignment, Headers, Membership, Message, Transaction


def values(world: OwnTopics) -> Sequence[bytes | None]:
    return [record.value for record in world.visible()]


class Line:
    """A member with both partitions and its publisher; its membership lets an event happen first, once."""

    def __init__(
        self, world: OwnTopics, *, delivery: Delivery = "exactly_once", offset_reset: OffsetReset = "earliest"
    ) -> None:
        self.world = world
        self.source = world.source()
        self.assignments = assignments_of(self.source)
        self.happen: Callable[[], object] | None = None
        self.instead: Membership | None = None
        self.publisher = world.publisher(
            self.source, membership=self._membership, delivery=delivery, offset_reset=offset_reset
        )

    def _membership(self) -> Membership:
        happen, self.happen = self.happen, None
        if happen is not None:
            happen()
        instead, self.instead = self.instead, None
        return instead or self.source.membership()

    def transaction(self, offsets: dict[int, int], *values: bytes) -> Transaction:
        messages = [Message(self.world.output, b"key", value, ()) for value in values]
        return Transaction(messages, {self.assignments[number]: offset for number, offset in offsets.items()})

    def publish(self, offsets: dict[int, int], *values: bytes, by: Publisher | None = None) -> None:
        (by or self.publisher).publish(self.transaction(offsets, *values))

    def refused(self, offsets: dict[int, int], *values: bytes, by: Publisher | None = None) -> str:
        with pytest.raises(Unpublished) as refused:
            self.publish(offsets, *values, by=by)
        return refused.value.cause

    def committed(self) -> int | None:
        return self.publisher.committed(self.assignments[0])

    def recovered(self) -> tuple[Sequence[bytes | None], Mapping[int, int]]:
        self.publisher.recover()
        return values(self.world), self.world.committed()


@pytest.fixture
def line(world: OwnTopics) -> Line:
    return Line(world)


def test_messages_and_offsets_are_there_when_publish_returns(world: OwnTopics, line: Line) -> None:
    line.publish({0: 5, 1: 7}, b"a", b"b")
    assert values(world) == [b"a", b"b"]
    assert world.committed() == {0: 5, 1: 7}


def test_messages_of_a_run_are_invisible_until_it_is_committed(world: OwnTopics, line: Line) -> None:
    seen: list[Sequence[bytes | None]] = []
    line.happen = lambda: seen.append(values(world))
    line.publish({0: 1}, b"a")
    assert seen == [[]]
    assert values(world) == [b"a"]


def test_runs_are_visible_in_their_order(world: OwnTopics, line: Line) -> None:
    for number in range(5):
        line.publish({0: number + 1}, b"%da" % number, b"%db" % number)
    assert values(world) == [b"%d%s" % (number, end) for number in range(5) for end in (b"a", b"b")]


def test_a_run_without_messages_commits_its_offsets(world: OwnTopics, line: Line) -> None:
    line.publisher.publish(Transaction([], {line.assignments[0]: 3}))
    assert world.committed() == {0: 3}


def test_a_run_without_offsets_publishes_its_messages_and_commits_no_offset(world: OwnTopics, line: Line) -> None:
    line.instead = NO_MEMBERSHIP
    line.publish({}, b"alone")
    assert values(world) == [b"alone"]
    assert world.committed() == {}


def test_null_keys_null_values_and_repeated_headers_are_sent_unchanged(world: OwnTopics, line: Line) -> None:
    headers = (("h", b"1"), ("h", b"2"), ("ü", b""))
    messages = [Message(world.output, None, b"value", headers), Message(world.output, b"key", None, ())]
    line.publisher.publish(Transaction(messages, {line.assignments[0]: 1}))
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
    world: OwnTopics, line: Line, topic: str | None, key: bytes | None, value: bytes | None, headers: Headers, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        line.publisher.publish(
            Transaction([Message(topic or world.output, key, value, headers)], {line.assignments[0]: 1})
        )
    line.publish({0: 1}, b"after")
    assert values(world) == [b"after"]


def test_the_largest_message_that_it_says_to_take_is_taken_alone_and_in_company(world: OwnTopics, line: Line) -> None:
    assert line.publisher.max_message_bytes == {world.output: MAX_MESSAGE_BYTES}
    empty = Message(world.output, b"key", b"", (("name", b"value"),))
    large = Message(world.output, b"key", b"v" * (MAX_MESSAGE_BYTES - empty.size), empty.headers)
    assert large.size == MAX_MESSAGE_BYTES
    small = Message(world.output, b"key", b"small", ())
    line.publisher.publish(Transaction([small, large, small, large, large, small], {line.assignments[0]: 1}))
    assert [len(record.value or b"") for record in world.visible()] == [
        len(message.value or b"") for message in (small, large, small, large, large, small)
    ]


def test_an_assignment_that_ends_before_the_commit_takes_its_run_with_it(world: OwnTopics, line: Line) -> None:
    line.happen = line.assignments[0].end
    assert line.refused({0: 1, 1: 1}, b"a") == "membership"
    assert line.recovered() == ([], {})
    line.publish({1: 1}, b"b")
    assert values(world) == [b"b"]
    assert world.committed() == {1: 1}


@pytest.mark.parametrize(
    "membership",
    [NO_MEMBERSHIP, Membership(1, "another-member"), Membership(-1, "")],
    ids=["none", "another member id", "reset by a failed heartbeat"],
)
def test_a_run_is_refused_under_any_membership_but_its_assignments_own(line: Line, membership: Membership) -> None:
    line.instead = membership
    assert line.refused({0: 1}, b"a") == "membership"
    assert line.recovered() == ([], {})


def test_the_group_refuses_the_generation_of_an_earlier_join(line: Line) -> None:
    generation, member_id = line.source.membership()
    line.instead = Membership(generation - 1 if generation > 0 else generation + 1, member_id)
    assert line.refused({0: 1}, b"a") == "membership"
    assert line.recovered() == ([], {})


def test_an_expelled_member_that_does_not_know_it_yet_publishes_nothing(world: OwnTopics, line: Line) -> None:
    line.instead = line.source.membership()
    line.happen = lambda: world.expel(line.source)
    assert line.assignments[0].current
    assert line.refused({0: 1}, b"a") == "membership"
    assert line.recovered() == ([], {})


def test_after_a_failed_run_only_recover_may_follow(line: Line) -> None:
    line.instead = NO_MEMBERSHIP
    line.refused({0: 1}, b"a")
    with pytest.raises(RuntimeError, match="recover must come first"):
        line.publish({0: 1}, b"a")


def test_offsets_of_a_failed_run_are_never_committed_with_a_later_one(world: OwnTopics, line: Line) -> None:
    generation, member_id = line.source.membership()
    # One that only the broker refuses: by then the client has queued the offsets.
    line.instead = Membership(generation + 1, member_id)
    line.refused({0: 9}, b"a")
    line.publisher.recover()
    line.publish({1: 1}, b"b")
    assert world.committed() == {1: 1}
    assert values(world) == [b"b"]


@pytest.mark.parametrize("happened", [True, False], ids=["it happened", "it did not"])
def test_after_a_commit_without_answer_the_committed_offset_shows_the_result(
    world: OwnTopics, line: Line, happened: bool
) -> None:
    line.publish({0: 1}, b"first")
    world.fail_commit(line.publisher, happened=happened)
    assert line.refused({0: 2}, b"second") == "timeout"
    line.publisher.recover()
    assert line.committed() == (2 if happened else 1)
    assert values(world) == ([b"first", b"second"] if happened else [b"first"])
    line.publish({0: 3}, b"third")
    assert values(world)[-1] == b"third"


def test_a_second_publisher_with_our_transactional_id_fences_the_first(world: OwnTopics, line: Line) -> None:
    line.publish({0: 1}, b"first")
    second = world.publisher(line.source)
    assert line.refused({0: 2}, b"lost") == "fenced"
    line.publish({0: 2}, b"second", by=second)
    assert values(world) == [b"first", b"second"]


def test_a_transactional_id_that_is_taken_again_and_again_stops_the_worker(world: OwnTopics, line: Line) -> None:
    world.publisher(line.source)
    line.refused({0: 1}, b"a")
    line.publisher.recover()
    line.publish({0: 1}, b"a")
    world.publisher(line.source)
    with pytest.raises(Broken, match="another process has our transactional id"):
        line.publish({0: 2}, b"b")
    assert values(world) == [b"a"]


def test_taking_the_id_again_ends_the_transaction_that_a_dead_worker_left_open(world: OwnTopics, line: Line) -> None:
    world.fail_commit(line.publisher, happened=False)
    line.refused({0: 1}, b"left open")
    alive = world.publisher(line.source)
    assert alive.committed(line.assignments[0]) == 0
    line.publish({0: 1}, b"again", by=alive)
    assert values(world) == [b"again"]


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize(("offset_reset", "first"), [("earliest", 2), ("latest", 3)])
def test_a_group_without_an_offset_begins_at_the_given_offset_and_remembers_it(
    world: OwnTopics, offset_reset: OffsetReset, first: int, delivery: Delivery
) -> None:
    for number in range(3):
        world.append(0, b"%d" % number)
    world.delete_records(0, 2)
    line = Line(world, delivery=delivery, offset_reset=offset_reset)
    assert line.committed() == first
    assert world.committed() == {0: first}
    world.append(0, b"later")
    assert line.committed() == first


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_an_ended_assignment_has_no_committed_offset_and_commits_none(world: OwnTopics, delivery: Delivery) -> None:
    line = Line(world, delivery=delivery)
    line.assignments[0].end()
    assert line.committed() is None
    assert world.committed() == {}


def test_an_assignment_under_another_member_id_has_no_committed_offset(world: OwnTopics, line: Line) -> None:
    assert line.publisher.committed(Assignment(line.assignments[0].partition, "another-member")) is None
    assert world.committed() == {}


def test_a_committed_offset_is_withheld_while_a_transaction_on_it_is_pending(world: OwnTopics, line: Line) -> None:
    line.publish({0: 1})
    commit = world.leave_pending(line.source, line.assignments[0], 5)
    assert line.committed() is None
    commit()
    assert line.committed() == 5


def test_a_new_generation_alone_does_not_stop_a_retained_partition(world: OwnTopics, line: Line) -> None:
    second = world.source()
    before = line.source.membership().generation
    # Each member is polled by a thread of its own, as in life: two that take turns hold up each other's join.
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(poll_until, second, lambda _, started: bool(started))
        poll_until(line.source, lambda *_: begun.done())
        assert begun.result()
    assert line.source.membership().generation > before
    (retained,) = (number for number, assignment in line.assignments.items() if assignment.current)
    poll_until(line.source, lambda *_: published(line, {retained: 1}, b"a"))
    assert values(world) == [b"a"]


def published(line: Line, offsets: dict[int, int], value: bytes) -> bool:
    """Publish as the pipeline does: a refusal in the middle of a join is repaired and tried again."""
    try:
        line.publish(offsets, value)
    except Unpublished:
        line.publisher.recover()
        return False
    return True


def test_at_least_once_shows_messages_before_their_offsets_are_committed(world: OwnTopics) -> None:
    line = Line(world, delivery="at_least_once")
    seen: list[object] = []
    line.happen = lambda: seen.extend([values(world), world.committed()])
    line.publish({0: 1}, b"a")
    assert seen == [[b"a"], {}]
    assert world.committed() == {0: 1}
    assert line.committed() == 1


def test_at_least_once_commits_nothing_for_an_ended_assignment(world: OwnTopics) -> None:
    line = Line(world, delivery="at_least_once")
    line.happen = line.assignments[0].end
    assert line.refused({0: 1}, b"a") == "membership"
    line.publisher.recover()
    assert world.committed() == {}
    line.publish({1: 1}, b"b")
    assert world.committed() == {1: 1}


def test_an_output_topic_that_does_not_exist_is_named(world: OwnTopics) -> None:
    with pytest.raises(Misconfigured, match="'no-such-topic' does not exist; create it"):
        world.publisher(world.source(), topic="no-such-topic")
