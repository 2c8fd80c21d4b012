"""The page on tests: what it shows can be imported, and what needs no server runs."""

from __future__ import annotations

import re
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs/design/testing.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def shown(example: str) -> list[FunctionType]:
    names: dict[str, Any] = {}
    exec(compile(example, str(PAGE), "exec"), names)
    return [value for name, value in names.items() if name.startswith("test_")]


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_is_a_test_of_twenty_lines_at_most(example: str) -> None:
    [test] = shown(example)
    assert len(example.splitlines()) <= 20
    if not test.__code__.co_argcount:
        test()


def test_there_is_an_example_for_each_kind_that_needs_more_than_the_thing_itself() -> None:
    assert len(EXAMPLES) == 5
