"""No text tells a reader to install tagstream by name: nothing is published, and the name may become anyone's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workers.errors import not_installed

ROOT = Path(__file__).parents[2]
READ = (
    "*.md",
    "docs",
    "examples",
    "deploy",
    "testing",
    "training",
    "schemas",
    "workers",
    ".github",
    "Dockerfile",
    "Makefile",
    "scripts",
)
SUFFIXES = {"", ".md", ".py", ".toml", ".yml", ".yaml", ".sh", ".java", ".txt"}
BY_NAME = re.compile(
    r"\b(?:pip3? install|uv add|poetry add|uvx|pipx (?:run|install))\s+"
    r"(?:-\S+\s+)*[\"'`]?tagstream(?:-testing|-train|-schemas)?(?![\w.-]|\s*@|/)"
    r"|\btagstream(?:-testing|-train|-schemas)?\[[a-z,]+\]"
)
"""An installer's command with a name of ours, on one line or two, and a name with extras wherever it stands."""


def texts() -> list[Path]:
    found = [path for each in READ for path in ROOT.glob(each)]
    files = [file for path in found for file in (path.rglob("*") if path.is_dir() else [path])]
    return sorted(file for file in files if file.is_file() and file.suffix in SUFFIXES)


def found(text: str) -> list[str]:
    return [match.group() for match in BY_NAME.finditer(re.sub(r"\s*\n\s*(?:#\s*)?", " ", text))]


def test_no_text_says_to_install_tagstream_by_its_name() -> None:
    read = texts()
    assert {ROOT / "README.md", ROOT / "workers/errors.py", ROOT / "docs/guide/training.md"} <= set(read)
    wrong = {str(path.relative_to(ROOT)): each for path in read if (each := found(path.read_text("utf-8", "replace")))}
    assert wrong == {}


@pytest.mark.parametrize(
    "line",
    [
        "pip install 'tagstream[train]'",
        'pip install\n"tagstream"',
        "uv pip install -U tagstream",
        "uv add tagstream-schemas",
        "uvx tagstream demo",
        "brought by `tagstream[parse]`",
    ],
)
def test_each_way_of_saying_it_is_found(line: str) -> None:
    assert found(line)


@pytest.mark.parametrize(
    "line",
    [
        'pip install "tagstream-schemas @ git+https://…/tagstream#subdirectory=schemas"',
        "pip install ./schemas",
        "pip install dist/tagstream-0.1.0-py3-none-any.whl",
        "run make install in a checkout of tagstream",
    ],
)
def test_what_works_without_a_release_may_be_said(line: str) -> None:
    assert not found(line)


def test_what_is_missing_is_named_with_the_command_that_brings_it() -> None:
    assert str(not_installed("spacy")).startswith("spacy is not installed")
    assert "make install" in str(not_installed("spacy"))
    assert re.search(r"(?m)^install:", (ROOT / "Makefile").read_text())
