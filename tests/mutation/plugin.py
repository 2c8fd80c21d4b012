"""A pytest plugin that runs the collected tests once for each mutant, each time in a fork of the session.

The tests first run as they are, to learn which lines of the module each passes. A mutant is then tried by those tests
alone that pass its line, the quickest first, and is killed by the first that fails, or that takes far longer.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from tests.mutation.mutants import Mutant, mutants


@dataclass
class Findings:
    """What came of one module's mutants."""

    killed: int = 0
    survived: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    """No test that was asked passes their line."""
    left: int = 0
    """Not tried: the time was over."""


class Mutation:
    """The plugin for one module.

    Args:
        module: its file.
        until: when to stop, by the monotonic clock.
    """

    def __init__(self, module: Path, until: float) -> None:
        self.findings = Findings()
        self._path = str(module.resolve())
        self._source = module.read_text(encoding="utf-8")
        self._until = until
        self._lines: dict[pytest.Item, set[int]] = defaultdict(set)
        self._took_s: dict[pytest.Item, float] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for item in session.items:
            began = time.monotonic()
            with self._watching(item):
                passed = _passes(item)
            self._took_s[item] = time.monotonic() - began
            if not passed:
                raise session.Failed(f"{item.nodeid} fails on the module as it is")
        for mutant in mutants(self._source, self._path):
            self._try(mutant)
        return True

    def _try(self, mutant: Mutant) -> None:
        tests = [item for item, lines in self._lines.items() if mutant.line in lines]
        tests.sort(key=lambda item: self._took_s[item])
        if not tests:
            self.findings.unseen.append(str(mutant))
        elif time.monotonic() > self._until:
            self.findings.left += 1
        elif self._survives(mutant, tests):
            self.findings.survived.append(str(mutant))
        else:
            self.findings.killed += 1

    def _survives(self, mutant: Mutant, tests: list[pytest.Item]) -> bool:
        child = os.fork()
        if child == 0:
            os.setsid()
            _be_quiet()
            status = 1
            with contextlib.suppress(BaseException):
                self._put_in(mutant)
                status = int(not all(_passes(item) for item in tests))
            os._exit(status)
        within_s = 10 + 4 * sum(self._took_s[item] for item in tests)
        return _ended(child, within_s) == 0

    def _put_in(self, mutant: Mutant) -> None:
        """Every function made of the mutant's place in the source runs the changed code from here on."""
        gc.unfreeze()  # tests/conftest.py has frozen what is imported: it would not be listed
        functions = [found for found in gc.get_objects() if isinstance(found, FunctionType)]
        ours = [found for found in functions if found.__code__.co_filename == self._path]
        for function in ours:
            if function.__code__.co_qualname == mutant.function:
                function.__code__ = mutant.code

    @contextmanager
    def _watching(self, item: pytest.Item) -> Iterator[None]:
        seen = self._lines[item]

        def line(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
            seen.add(frame.f_lineno)
            return line

        def call(frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
            return line if frame.f_code.co_filename == self._path else None

        threading.settrace(call)
        sys.settrace(call)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)


def _passes(item: pytest.Item) -> bool:
    return all(not report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def _be_quiet() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _ended(child: int, within_s: float) -> int:
    """The exit status of a child, which is ended with all of its own after that time."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            _kill_group(child)
            return status
        time.sleep(0.005)
    _kill_group(child)
    os.waitpid(child, 0)
    return -1


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
