"""The project's words: the glossary, the check of `make lint`, and the paths that the pages name."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs" / "reference" / "glossary.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| [^|]+ \| `([^`]+)` `([^`]+)` \|$", GLOSSARY, re.MULTILINE)
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPT = ROOT / "scripts" / "words.py"


def defined(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


@pytest.mark.parametrize(("word", "path", "name"), ROWS)
def test_a_word_of_the_glossary_is_defined_where_it_says(word: str, path: str, name: str) -> None:
    assert name in defined(ROOT / path), word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    folders = "workers|schemas|index|testing|training|tests|scripts|benchmarks|deploy|docs"
    named = re.findall(rf"`((?:{folders})/[\w./-]*)", page.read_text("utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "home",
    [
        "workers schemas",
        "index/tagstream_index",
        "ocr/tagstream_ocr",
        "remote/tagstream_remote",
        "testing/tagstream_testing",
        "training/tagstream_train",
    ],
)
def test_a_class_of_a_home_has_a_name_of_its_own(home: str) -> None:
    defined_in: dict[str, list[str]] = {}
    for path in (path for place in home.split() for path in (ROOT / place).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                defined_in.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: places for name, places in defined_in.items() if len(places) > 1} == {}
