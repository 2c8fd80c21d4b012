"""The gate: all images together, a suspect alone."""

from __future__ import annotations

from workers.pipeline.flow.gate import ExclusiveGate


def test_all_pass_together() -> None:
    gate, inside = ExclusiveGate(), list[str]()
    for name in "abc":
        gate.enter(lambda name=name: inside.append(name), alone=False)  # type: ignore[misc]
    assert inside == ["a", "b", "c"]


def test_a_suspect_waits_until_all_have_left_and_keeps_the_others_out() -> None:
    gate, inside = ExclusiveGate(), list[str]()
    gate.enter(lambda: inside.append("a"), alone=False)
    gate.enter(lambda: inside.append("suspect"), alone=True)
    gate.enter(lambda: inside.append("b"), alone=False)
    assert inside == ["a"]
    gate.leave()
    assert inside == ["a", "suspect"]
    gate.leave()
    assert inside == ["a", "suspect", "b"]


def test_thousands_that_leave_at_once_do_not_recurse() -> None:
    gate, count = ExclusiveGate(), 0

    def pass_through() -> None:
        nonlocal count
        count += 1
        gate.leave()

    gate.enter(lambda: None, alone=True)
    for _ in range(5_000):
        gate.enter(pass_through, alone=False)
    assert count == 0
    gate.leave()
    assert count == 5_000
