"""docs/troubleshooting.md quotes only lines that the program writes, and every warning of its log."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
LEVELS = {"warning", "error", "critical", "exception"}
APART = ("training", "local", "testing", "cli/train", "cli/demo.py")
"""Programs other than the worker and its commands: what they say is explained where they are."""
_PLACEHOLDERS = re.compile(r"%[.\d]*[srdgf]|\{[^{}]*\}")


def quoted() -> list[str]:
    """The lines in the first columns of the page's tables but the first, which has symptoms."""
    _, by_line = TEXT.split("## By a line of the log")
    return re.findall(r"^\| `(.+?)` \|", by_line, re.MULTILINE)


@cache
def nodes() -> list[ast.AST]:
    """All that the programs' modules consist of."""
    paths = sorted((ROOT / "workers").rglob("*.py"))
    named = [path for path in paths if not path.relative_to(ROOT / "workers").as_posix().startswith(APART)]
    return [node for path in named for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def template(node: ast.AST) -> str | None:
    """A text of the source with `…` for each part that is only known when it runs; None: no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _PLACEHOLDERS.sub("…", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


@cache
def texts() -> frozenset[str]:
    return frozenset(text for node in nodes() if (text := template(node)) is not None)


@cache
def warnings() -> frozenset[str]:
    calls = (node for node in nodes() if isinstance(node, ast.Call) and node.args)
    at_level = (call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in LEVELS)
    of_a_log = (call for call in at_level if ast.unparse(call.func).startswith(("_log.", "logger.")))
    texts = frozenset(text for call in of_a_log if (text := template(call.args[0])) is not None)
    return texts - {"…"}  # an error's own sentence, which the tables of exit codes have


def says(quote: str, text: str) -> bool:
    """Whether the parts of a quoted line stand in the text in their order."""
    at = 0
    for part in quote.split("…"):
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True


def test_every_quoted_line_is_written_by_the_program() -> None:
    invented = [line for line in quoted() if not any(says(line, text) for text in texts())]
    assert not invented
    assert len(quoted()) > 60


def test_every_warning_of_the_log_is_explained() -> None:
    unexplained = sorted(text for text in warnings() if not any(says(line, text) for line in quoted()))
    assert not unexplained, "docs/troubleshooting.md says what to do about each line of the log above info"
    assert len(warnings()) > 30
