"""Explicit-state search: every state that can be reached, the shortest way to a bad one, and dead ends."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from tests.support.growth import no_garbage_collection

State = TypeVar("State", bound=Hashable)
Steps: TypeAlias = Callable[[State], Iterable[tuple[str, State]]]


@dataclass(frozen=True, slots=True)
class Found(Generic[State]):
    """The result of a search: the number of states, and steps to a bad or stuck one.

    Args:
        trace: one of the shortest ways to a bad state; empty: all are good.
        bad: the fault there.
        stuck: a way to a state that can't reach the goal; empty: all can.
    """

    states: int
    trace: tuple[str, ...] = ()
    bad: str = ""
    stuck: tuple[str, ...] = ()

    def told(self) -> str:
        """The counterexample for a person, a step a line."""
        return "\n".join(
            [*(f"{number:3}. {step}" for number, step in enumerate(self.trace or self.stuck, 1)), self.bad]
        )


def explore(
    start: State, steps: Steps[State], wrong: Callable[[State], str], goal: Callable[[State], bool]
) -> Found[State]:
    """Breadth first from `start` through all `steps`, until something is `wrong` or everything was seen."""
    # Nothing of a search is garbage before its end, and looking for some takes half of the time.
    with no_garbage_collection():
        return _explore(start, steps, wrong, goal)


def _explore(
    start: State, steps: Steps[State], wrong: Callable[[State], str], goal: Callable[[State], bool]
) -> Found[State]:
    numbers = {start: 0}
    states = [start]
    came: list[tuple[int, str]] = [(-1, "")]
    before: list[list[int]] = [[]]
    waiting = deque([0])
    while waiting:
        number = waiting.popleft()
        for step, state in steps(states[number]):
            known = numbers.get(state)
            if known is not None:
                before[known].append(number)
                continue
            new = numbers[state] = len(states)
            states.append(state)
            came.append((number, step))
            before.append([number])
            if bad := wrong(state):
                return Found(len(states), _way(came, new), bad)
            waiting.append(new)
    stuck = _stuck(states, before, goal)
    return Found(len(states), stuck=() if stuck is None else _way(came, stuck))


def _stuck(states: list[State], before: list[list[int]], goal: Callable[[State], bool]) -> int | None:
    """The first state from which no way leads to the goal."""
    hopeful = [goal(state) for state in states]
    waiting = [number for number, good in enumerate(hopeful) if good]
    while waiting:
        for number in before[waiting.pop()]:
            if not hopeful[number]:
                hopeful[number] = True
                waiting.append(number)
    return next((number for number, good in enumerate(hopeful) if not good), None)


def _way(came: list[tuple[int, str]], number: int) -> tuple[str, ...]:
    steps: list[str] = []
    while number > 0:
        number, step = came[number]
        steps.append(step)
    return tuple(reversed(steps))
