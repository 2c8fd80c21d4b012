"""Every documented claim about behaviour names the test that tries it, in `tests/claims.toml`.

A claim is a section's prose, a row of a table, or an item of a list that begins in bold. The file names them by section
and first words, so a sentence may be put otherwise, and a new section, row or item without a test is seen.
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
    """By page and by claim: a place as `places` gives it, with a short name behind it where it makes several."""
    return tomllib.loads((ROOT / FILE).read_text(encoding="utf-8"))


def places(text: str) -> Iterator[str]:
    """The places of a page that claim something: `section`, `section/row` and `section/item`."""
    section, table, told = "", 0, False
    for line in re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL).splitlines():
        if line.startswith("|"):
            table += 1
            if table > 2:  # below its head and the line under that
                yield f"{section}/{_words(line.split('|')[1])}"
            continue
        table = 0
        if line.startswith("#"):
            section, told = _words(line), False
        elif item := re.match(r"[-*] \*\*(.*?)\*\*", line):
            yield f"{section}/{_words(item[1])}"
        elif re.match(r"\w|\*\*?\w|`|\[", line) and not told:
            told = True
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


def _place(claim: str) -> str:
    return claim.partition(":")[0]


@pytest.mark.parametrize("page", PAGES)
def test_every_claim_of_a_page_has_a_test_or_a_reason(page: str) -> None:
    found = set(places((ROOT / page).read_text(encoding="utf-8")))
    told = {_place(claim) for claim in claims()[page]}
    whole = {place.removesuffix("/*") for place in told if place.endswith("/*")}
    missing = {place for place in found - told if place.rpartition("/")[0] not in whole}
    assert missing == set(), f"each needs a line in {FILE}"
    gone = {place for place in told - found if not place.endswith("/*")}
    assert gone == set(), f"{page} does not have these any more, and {FILE} does"


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_claim_names_is_there(page: str) -> None:
    for claim, named in claims()[page].items():
        if isinstance(named, str):
            assert named.startswith(UNTRIED), claim
            assert len(named) > len(UNTRIED) + 10, f"{claim}: say why"
        else:
            assert named, claim
            assert [node_id for node_id in named if not _is_there(node_id)] == [], claim


def test_no_other_page_is_listed() -> None:
    assert tuple(claims()) == PAGES


def test_sections_rows_and_bold_items_are_found_and_a_new_one_is_missed() -> None:
    page = """# A page
Prose that claims.

## Only a table
| head | of it |
|---|---|
| [row](x.md#y) `one` | it holds |

## A list, and code
- **Bold.** This too.
- plain: part of another claim

```
# no heading
| no | row |
```
More prose.
"""
    assert list(places(page)) == ["a-page", "only-a-table/row-one", "a-list-and-code/bold", "a-list-and-code"]
    assert _is_there("tests/unit/test_claims.py::test_no_other_page_is_listed")
    assert not _is_there("tests/unit/test_claims.py::test_that_there_never_was")
    assert not _is_there("tests/unit/test_no_such_file.py::test_x")
