"""Work in a process that does nothing else."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeAlias

import pytest

Apart: TypeAlias = Callable[..., Any]
"""Calls a module's function with arguments that can be pickled, and returns its result."""


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    """For tests that measure memory: leftovers of earlier tests on a heap would add 1 to 4 MB."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield lambda function, *arguments: process.submit(function, *arguments).result(110)
