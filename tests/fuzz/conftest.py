"""The surviving process keeps an input that ended or hung another process, and `make test` replays it."""

import os
from pathlib import Path

import pytest

from tests.fuzz.fuzzer import Crash, write
from tests.fuzz.mutators import loads

MINUTES = float(os.environ.get("FUZZ_MINUTES") or 0)
"""Of all targets together; 0: a moment each."""
CURRENT = Path("build/fuzz")
"""The input of each target that is tried now."""


def pytest_sessionstart(session: pytest.Session) -> None:
    if MINUTES and not hasattr(session.config, "workerinput"):
        CURRENT.mkdir(parents=True, exist_ok=True)
        for left in CURRENT.iterdir():
            left.unlink()
        head = "| target | inputs | kept for new lines | broken | what came of them |\n|---|---|---|---|---|\n"
        CURRENT.with_name("fuzz-report.md").write_text(head)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if MINUTES and not hasattr(session.config, "workerinput"):
        for left in CURRENT.iterdir():
            write(Crash(left.name, loads(left.read_bytes()), "it ended the process, or hung"))
