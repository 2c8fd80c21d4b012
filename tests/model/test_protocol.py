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


@pytest.mark.parametrize(
    ("without", "size", "bad"),
    [
        pytest.param("generation", {"freezes": 1, "leaves": 1}, "published twice", id="a zombie of an empty group"),
        pytest.param("member", {"freezes": 1}, "published twice", id="a member that came back unnoticed"),
        pytest.param("ended", {"rebalances": 1}, "published twice", id="a partition that moved"),
        pytest.param("trust_committed", {"unknown": 1}, "published twice", id="a commit that had happened"),
        pytest.param("fresh_producer", {"partitions": 2}, "lost", id="offsets of the aborted transaction"),
        pytest.param("id_before_offset", {"freezes": 1}, "published twice", id="a position that is too old"),
        pytest.param("wait_for_pending", {"freezes": 1}, "published twice", id="a transaction that commits late"),
        pytest.param("ask_futures", {"expiries": 1}, "lost", id="a message left out of the commit"),
        pytest.param("alone", {"records": 2}, "published twice", id="a commit undone"),
    ],
)
def test_without_one_rule_the_model_finds_the_harm(without: str, size: dict[str, int], bad: str) -> None:
    assert bad in counterexample(replace(CALM, **size), **{without: False})


def test_the_search_sees_a_dead_end() -> None:
    found = explore(0, lambda n: [(str(n + 1), n + 1)] if n < 2 else [], lambda n: "", lambda n: n == 1)
    assert found.stuck == ("1", "2")
