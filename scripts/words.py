"""Fails for words that the project does not use, and says which word it uses instead.

    scripts/words.py        over the source, the documentation and the README

A thing that the field has a name for carries that name; docs/glossary.md has the words that are our own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("workers", "schemas", "docs", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")

INSTEAD = {
    r"whoever|nobody|somebody|everybody|anybody": "the thread, process, client or reader that is meant",
    r"condemned|guilty": "poison, or failing",
    r"owed|held against|charged": "what is counted, and where",
    r"mends?|mended|mending": "fix",
    r"bury|buries|buried": "reap",
    r"wedged?": "stalled",
    r"recall(s|ed|ing)?": "lookup",
    r"neighbou?rs?": "dependency",
    r"canary|canaries": "self-test image",
    r"tickets?": "request id",
    r"nursery": "fork server",
    r"an (picture|lookup|queue|dependency|reservation|transaction|photo)": "`a`",
    r"a (image|assignment|object|event|outcome|offset|error|answer)": "`an`",
}
"""Each pattern, of whole words in any case, with what to write in its place."""

_BANNED = {re.compile(rf"\b({words})\b", re.IGNORECASE): instead for words, instead in INSTEAD.items()}


def faults(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, the word found and what to write instead, for each banned word in a text."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, instead in _BANNED.items():
            for match in pattern.finditer(line):
                yield number, match[0], instead


def files() -> Iterator[Path]:
    """Every Python and Markdown file that the words are kept in."""
    for place in PLACES:
        path = ROOT / place
        found = [path] if path.is_file() else sorted(path.rglob("*"))
        yield from (file for file in found if file.suffix in (".py", ".md"))


def main() -> int:
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {word!r}: write {instead}"
        for path in files()
        for number, word, instead in faults(path.read_text(encoding="utf-8"))
    ]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
