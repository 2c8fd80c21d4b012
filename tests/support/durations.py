"""A test without a marker that keeps it out of `make unit` may take half a second of processor time.

Judged is the test's own body: the processor time of all threads of this process, less the first import of modules.
Fixtures, which others share, and processes that it starts are not counted. The same work takes longer where several
processes of pytest share the processors (twice has been measured): they judge by three times the limit.

The JUnit files have what each test took, with the processes that it started and that ended: `processor_s`.
"""

import builtins
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

LIMIT_S = 1.5 if "PYTEST_XDIST_WORKER" in os.environ else 0.5
EXAMPLES = 25
"""The limit holds for properties up to this number of examples: `make prove` tries more."""
MAY_TAKE_LONGER = frozenset({"slow", "servers", "full", "chaos", "kube", "dashboards", "sinks", "image"})


def pytest_collection_finish(session: pytest.Session) -> None:
    """What Hypothesis makes once (1.7 s in a fresh checkout) is not the first property's."""
    if any(is_property(item) for item in session.items):
        _once()


@settings(max_examples=1, database=None)
@given(st.text())
def _once(_: str) -> None: ...


_BEGAN = pytest.StashKey[float]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_BEGAN] = processor_s()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.when == "teardown" and _BEGAN in item.stash:
        item.user_properties.append(("processor_s", f"{processor_s() - item.stash[_BEGAN]:.2f}"))


def processor_s() -> float:
    """Processor time of this process, and of those that it started and waited for."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    began = time.process_time()
    with importing() as imports:
        outcome = yield
    seconds = time.process_time() - began - imports.seconds
    if seconds > LIMIT_S and is_judged(item):
        pytest.fail(f"it took {seconds:.2f} s of processor time: make it cheaper, or mark it slow", pytrace=False)
    return outcome


def is_judged(item: pytest.Item) -> bool:
    many = is_property(item) and settings().max_examples > EXAMPLES
    return not many and MAY_TAKE_LONGER.isdisjoint(mark.name for mark in item.iter_markers())


def is_property(item: pytest.Item) -> bool:
    return bool(getattr(getattr(item, "obj", None), "is_hypothesis_test", False))


class Imports:
    """Processor time of the import statements of this thread, the outermost of each."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.depth = 0


@contextmanager
def importing() -> Iterator[Imports]:
    real, imports = builtins.__import__, Imports()

    def measured(*arguments: Any, **named: Any) -> Any:
        if imports.depth:
            return real(*arguments, **named)
        imports.depth = 1
        began = time.thread_time()
        try:
            return real(*arguments, **named)
        finally:
            imports.depth = 0
            imports.seconds += time.thread_time() - began

    builtins.__import__ = measured
    try:
        yield imports
    finally:
        builtins.__import__ = real
