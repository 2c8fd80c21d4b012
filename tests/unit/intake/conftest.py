"""What tests of the intake share."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests.unit.intake.memory import Apart


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    """Work in a process that does nothing else.

    What a session's tests have left in a heap, and touch again after it was trimmed, came to 1 to 4 MB that were
    counted with what one image takes.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield lambda function, *arguments: process.submit(function, *arguments).result(110)
