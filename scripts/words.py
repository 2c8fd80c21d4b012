"""Fails for words that the project does not use, and says which word it uses instead.

    scripts/words.py        over source, tests, documentation and what is deployed

A thing that the field has a name for carries that name; docs/glossary.md has the words that are our own.
"""

from __future__ import annotations

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
        "docs/training",
    ),
    "ticket": (
        "deploy/monitoring/",
        "deploy/k8s/components/alerts/",
        "docs/monitoring.md",
        "docs/runbooks/",
        "tests/unit/deploy/test_alerts.py",
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
    r"lanes?": "partition queue",
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

_BANNED = {re.compile(rf"\b({words})\b", re.IGNORECASE): instead for words, instead in INSTEAD.items()}
_JOINTS = re.compile(r"(?<=[a-z0-9])_(?=[a-z0-9])|(?<=[a-z])(?=[A-Z])")
"""Where the words of a name meet, as in `dead_letter` and `DeadLetter`."""


def faults(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, the word found and what to write instead, for each banned word in a text or in a name of it."""
    for number, line in enumerate(text.splitlines(), 1):
        spaced = _JOINTS.sub(" ", line)
        for pattern, instead in _BANNED.items():
            for match in pattern.finditer(spaced):
                yield number, match[0], instead


def files() -> Iterator[Path]:
    """Every file that the words are kept in."""
    found = [*ROOT.iterdir(), *(file for place in PLACES for file in (ROOT / place).rglob("*"))]
    for file in sorted(found):
        ours = not file.relative_to(ROOT).as_posix().startswith(APART)
        if file.is_file() and ours and file.suffix in SUFFIXES:
            yield file


def main() -> int:
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {word!r}: write {instead}"
        for path in files()
        for number, word, instead in faults(path.read_text(encoding="utf-8"))
        if not path.relative_to(ROOT).as_posix().startswith(tuple(WHERE.get(word.lower(), ())))
    ]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
