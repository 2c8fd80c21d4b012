"""No order of steps and faults publishes a record twice, loses one, or leaves one behind; and every rule is needed.

The first tests explore every state of small worlds under all the rules of the product. The others remove one rule and
show the shortest way to the harm; run them with `-rP` to read it. protocol.py explains the model's parts.
"""

from dataclasses import replace

import pytest

from tests.model.explore import Found, explore
from tests.model.protocol import Protocol, ProtocolState, Rules, Size

pytestmark = pytest.mark.slow

CALM = Size(records=1, freezes=0, rebalances=0, unknown=0, timeouts=0, leaves=0)


def searched(rules: Rules, size: Size) -> Found[ProtocolState]:
    protocol = Protocol(rules, size)
    return explore(protocol.start(), protocol.steps, protocol.wrong, protocol.done)


def counterexample(size: Size, **without: bool) -> str:
    found = searched(replace(Rules(), **without), size)
    print(found.told())  # noqa: T201  # for the reader of the test's output
    assert found.trace, f"{found.states} states, and nothing wrong in any of them"
    return found.bad


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(replace(CALM, records=3, unknown=1), id="three records and an unknown commit"),
        pytest.param(replace(CALM, partitions=2, unknown=1), id="two partitions and an unknown commit"),
        pytest.param(replace(CALM, records=2, freezes=1), id="a freeze"),
        pytest.param(replace(CALM, freezes=1, timeouts=1), id="a freeze and a transaction that times out"),
        pytest.param(replace(CALM, freezes=1, unknown=1, leaves=1), id="a freeze, an unknown commit and a leave"),
    ],
)
def test_every_record_is_published_once_and_in_order_whatever_happens(size: Size) -> None:
    found = searched(Rules(), size)
    assert not found.bad, found.told()
    assert not found.stuck, f"from here the rest can never be published:\n{found.told()}"


def test_without_the_generation_check_the_model_finds_a_zombie_of_an_empty_group() -> None:
    assert "published twice" in counterexample(replace(CALM, freezes=1, leaves=1), generation=False)


def test_without_the_member_id_check_the_model_finds_a_member_that_came_back_unnoticed() -> None:
    assert "published twice" in counterexample(replace(CALM, freezes=1), member=False)


def test_without_the_check_for_ended_assignments_the_model_finds_a_partition_that_moved() -> None:
    assert "published twice" in counterexample(replace(CALM, rebalances=1), ended=False)


def test_without_trusting_the_committed_offset_the_model_finds_a_commit_that_had_happened() -> None:
    assert "published twice" in counterexample(replace(CALM, unknown=1), trust_committed=False)


def test_without_a_fresh_producer_the_model_finds_offsets_of_the_aborted_transaction() -> None:
    assert "lost" in counterexample(replace(CALM, partitions=2), fresh_producer=False)


def test_without_the_member_id_before_the_offset_the_model_finds_a_position_that_is_too_old() -> None:
    assert "published twice" in counterexample(replace(CALM, freezes=1), id_before_offset=False)


def test_without_waiting_for_pending_transactions_the_model_finds_one_that_commits_late() -> None:
    assert "published twice" in counterexample(replace(CALM, freezes=1), wait_for_pending=False)


def test_without_asking_every_future_the_model_finds_a_message_left_out_of_the_commit() -> None:
    assert "lost" in counterexample(replace(CALM, expiries=1), ask_futures=False)


def test_without_leaving_offsets_to_the_publish_thread_the_model_finds_a_commit_undone() -> None:
    assert "published twice" in counterexample(replace(CALM, records=2), alone=False)


def test_the_search_sees_a_dead_end() -> None:
    found = explore(0, lambda n: [(str(n + 1), n + 1)] if n < 2 else [], lambda n: "", lambda n: n == 1)
    assert found.stuck == ("1", "2")
