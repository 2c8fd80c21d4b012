from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from tests.unit.intake.deadly import PaintedStore
from workers.intake import Limits, ProcessIntake
from workers.intake.header import guard
from workers.types import Transform


@pytest.fixture(autouse=True)
def _guarded() -> None:
    guard(Limits())


@pytest.fixture
def painted() -> Iterator[Callable[..., ProcessIntake]]:
    """Makes process intakes of painted images, each of one child unless told otherwise."""
    with ExitStack() as stack:

        def make(limits: Limits | None = None, children: int = 1, **options: Any) -> ProcessIntake:
            intake = ProcessIntake(PaintedStore(), (Transform(8),), limits or Limits(), children=children, **options)
            return stack.enter_context(closing(intake))

        yield make
