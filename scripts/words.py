"""Fails for words, phrases and first lines that the project does not use, and says what to write instead.

    scripts/words.py        over source, tests, documentation and what is deployed

A thing that the field has a name for carries that name; docs/reference/glossary.md has the words that are our own.
A docstring's first clause says in twelve words what a thing does or returns.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = (
    "workers",
    "schemas",
    "tests",
    "scripts",
    "examples",
    "benchmarks",
    "deploy",
    "docs",
    ".github",
    "index",
    "ocr",
    "remote",
    "testing",
    "training",
)
"""Folders; in the root, every page and the files that people read."""
SUFFIXES = (".py", ".md", ".yaml", ".yml", ".toml", ".env")
APART = ("scripts/words.py", "tests/unit/test_words.py", "tests/parity/reference")
"""The words themselves, and texts that are not ours."""
WHERE: Mapping[str, Sequence[str]] = {
    "recall": (
        "training/",
        "examples/learn/",
        "docs/guide/training",
        "docs/guide/own-words",
        "workers/models/calibration.py",
        "workers/cli/models_labels.py",
        "tests/unit/models/test_calibration.py",
        "tests/unit/cli/test_models_labels.py",
        "tests/integration/test_own_words.py",
    ),
    "ticket": (
        "deploy/monitoring/",
        "deploy/helm/tagstream/alerts/",
        "docs/guide/monitoring.md",
        "docs/reference/alerts.md",
        "tests/unit/deploy/test_monitoring.py",
    ),
}
"""Words that the field has for one thing, and the files that are about it: precision and recall are measured, and an
alert is a page or a ticket."""

INSTEAD = {
    r"(who(so)?ever|nobody|somebody|everybody|anybody)('?s)?": "the thread, process, client or reader that is meant",
    r"condemn(s|ed|ing)?|guilty": "poison, or failing",
    r"owed|held against|charged": "what is counted, and where",
    r"mends?|mended|mending": "fix",
    r"bury|buries|buried": "reap",
    r"wedges?|wedged": "stall, stalled",
    r"swells?|swelling|swollen": "grows, takes too much memory",
    r"(a|the|this|that|each|every|its|no|for|as) letter": "dead letter (of the alphabet: character)",
    r"inbox(es)?": "queue",
    r"slabs?": "shared memory, or region",
    r"pictures? in flight|in flight pictures?": "images in flight",
    r"twins?": "fake",
    r"rigs?": "harness",
    r"the law": "the delivery invariant",
    r"recall(s|ed|ing)?": "lookup",
    r"neighbou?rs?": "dependency",
    r"canary|canaries": "self-test image",
    r"tickets?": "request id",
    r"nursery": "fork server",
    r"an (picture|lookup|queue|dependency|reservation|transaction|photo)": "`a`",
    r"a (image|assignment|object|event|outcome|offset|error|answer)": "`an`",
}
"""Each pattern, of whole words in any case, with what to write in its place."""

PHRASES = {
    r"(?<!that\s)asked for": "wanted, requested, or the active voice",
    r"asked of": "the call or the request",
    r"told of": "the call and its argument",
    r"told below": "a link, or nothing",
    r"of which (nothing|none|no)": "two sentences",
    r"is none of|none of such": "what it is instead: invalid, foreign, …",
    r"that of the last": "the noun",
    r"none where": "None if …, or the case that returns it",
    r"of now": "the present tense",
}
"""Phrases of documentation, docstrings, comments and help that need a second reading."""
FIRST_WORDS = 12
"""The most words of the first clause of a docstring, up to its first full stop, colon or semicolon."""
CODE = ("workers", "schemas", "index", "ocr", "remote", "testing", "training")
"""The homes whose docstrings are checked."""
TESTS = ("tests/", "index/tests/", "ocr/tests/", "remote/tests/", "testing/tests/", "training/tests/")
"""Docstrings whose first lines are not checked."""
AS_THEY_ARE = ("CHANGELOG.md", "benchmarks/RESULTS.md")
"""Texts in which phrases are not checked."""

_CLAUSE = re.compile(r"(?<=[.:;])\s|\n\n")
_PHRASES = {
    re.compile(rf"\b(?:{words})\b".replace(" ", r"\s+(?:#\s+)?"), re.IGNORECASE): instead
    for words, instead in PHRASES.items()
}
_BANNED = {re.compile(rf"\b({words})\b", re.IGNORECASE): instead for words, instead in INSTEAD.items()}
_ANY_BANNED = re.compile(rf"\b(?:{'|'.join(INSTEAD)})\b")
"""Finds in one search, six times as fast, that a lower-case text has none of them."""
_JOINTS = re.compile(r"(?<=[a-z0-9])_(?=[a-z0-9])|(?<=[a-z])(?=[A-Z])")
"""Where the words of a name meet, as in `dead_letter` and `DeadLetter`."""


def faults(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, the word found and what to write instead, for each banned word in a text or in a name of it."""
    if not _ANY_BANNED.search(_JOINTS.sub(" ", text).lower()):
        return
    for number, line in enumerate(text.splitlines(), 1):
        spaced = _JOINTS.sub(" ", line)
        for pattern, instead in _BANNED.items():
            for match in pattern.finditer(spaced):
                yield number, match[0], instead


def phrases(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, phrase and what to write instead, also across a line break."""
    for pattern, instead in _PHRASES.items():
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, match[0], instead


def long_first_lines(source: str) -> Iterator[tuple[int, str, str]]:
    """Line number, first clause and what to write instead, for each docstring that begins too long."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = " ".join(_CLAUSE.split(ast.get_docstring(node) or "", maxsplit=1)[0].split())
            if len(first.split()) > FIRST_WORDS:
                yield node.body[0].lineno, first, f"at most {FIRST_WORDS} words: what it does or returns"


def files() -> Iterator[Path]:
    """Every file that the words are kept in."""
    found = [*ROOT.iterdir(), *(file for place in PLACES for file in (ROOT / place).rglob("*"))]
    for file in sorted(found):
        ours = not file.relative_to(ROOT).as_posix().startswith(APART)
        if file.is_file() and ours and file.suffix in SUFFIXES:
            yield file


def found_in(path: Path) -> Iterator[tuple[int, str, str]]:
    """All faults of one file."""
    name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for number, word, instead in faults(text):
        if not name.startswith(tuple(WHERE.get(word.lower(), ()))):
            yield number, word, instead
    if not name.startswith(AS_THEY_ARE):
        yield from phrases(text)
    if path.suffix == ".py" and name.startswith(CODE) and not name.startswith(TESTS):
        yield from long_first_lines(text)


def main() -> int:
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {' '.join(word.split())!r}: write {instead}"
        for path in files()
        for number, word, instead in found_in(path)
    ]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
