"""docs/testing.md: what it shows is what works."""

from __future__ import annotations

import re
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs/testing.md"
EXAMPLES = re.findall(r"## (.+?)\n.*?```python\n(.+?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def _tests_of(example: str) -> list[FunctionType]:
    made: dict[str, Any] = {}
    exec(compile(example, str(PAGE), "exec"), made)
    return [found for name, found in made.items() if name.startswith("test_")]


def test_each_kind_has_an_example_of_about_twenty_lines() -> None:
    assert len(EXAMPLES) == 5
    assert all(example.count("\n") < 25 for _, example in EXAMPLES)


@pytest.mark.parametrize("example", [example for _, example in EXAMPLES], ids=[kind for kind, _ in EXAMPLES])
def test_an_example_imports_what_there_is_and_passes(example: str) -> None:
    """One that asks for servers is only looked at: the tests that it is like run on them."""
    (test,) = _tests_of(example)
    if not test.__code__.co_argcount:
        test()
