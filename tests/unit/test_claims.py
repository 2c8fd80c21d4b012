"""Every section that claims behaviour names the tests that try it, in `tests/claims.toml`.

The file names a section by the first words of its heading, so its sentences may be put otherwise, and a new section
without a test is seen.
"""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/guide/quickstart.md",
    "docs/guide/operating.md",
    "docs/reference/faults.md",
    "docs/reference/dead-letters.md",
    "docs/design/security.md",
)
FILE = "tests/claims.toml"
UNTRIED = "not testable: "
Tests: TypeAlias = list[str] | str
"""Node ids, or `UNTRIED` and the reason."""

_FIRST_WORDS = 6


def claims() -> Mapping[str, Mapping[str, Tests]]:
    return tomllib.loads((ROOT / FILE).read_text(encoding="utf-8"))


def sections(text: str) -> Iterator[str]:
    """The sections of a page that claim something: in prose, in a row of a table, or in an item that begins in bold."""
    section, table = "", 0
    for line in re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL).splitlines():
        table = table + 1 if line.startswith("|") else 0
        if line.startswith("#"):
            section = _words(line)
        elif table > 2 or re.match(r"\w|\*\*?\w|`|\[|[-*] \*\*", line):  # a table's third line is its first row
            yield section


def _words(text: str) -> str:
    """The first words as a name, without the addresses of links."""
    plain = re.sub(r"\]\([^)]*\)", "", text).replace("[", "")
    return "-".join(re.findall(r"[a-z0-9_]+", plain.lower())[:_FIRST_WORDS])


@cache
def _names_in(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def _is_there(node_id: str) -> bool:
    file, _, name = node_id.partition("::")
    return (ROOT / file).is_file() and name.startswith("test_") and name in _names_in(ROOT / file)


@pytest.mark.parametrize("page", PAGES)
def test_every_section_of_a_page_names_a_test_or_a_reason(page: str) -> None:
    found, listed = set(sections((ROOT / page).read_text(encoding="utf-8"))), claims()[page].keys()
    assert found - listed == set(), f"each needs a line in {FILE}"
    assert listed - found == set(), f"{page} does not have these any more, and {FILE} does"


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_section_names_is_there(page: str) -> None:
    for section, named in claims()[page].items():
        if isinstance(named, str):
            assert named.startswith(UNTRIED), section
            assert len(named) > len(UNTRIED) + 10, f"{section}: say why"
        else:
            assert named, section
            assert [node_id for node_id in named if not _is_there(node_id)] == [], section


def test_no_other_page_is_listed() -> None:
    assert tuple(claims()) == PAGES
