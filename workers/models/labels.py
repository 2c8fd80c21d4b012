"""Lists of label names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from workers.errors import Misconfigured, nearest
from workers.models.bundle import Bundle
from workers.models.files import lines_of


def read_names(path: Path) -> list[str]:
    """Label names from a text file, one a line; empty lines don't count, blanks at a name's ends belong to it.

    Raises:
        Misconfigured: the file can't be read, or holds no name.
    """
    names = [line for line in lines_of(path) if line.strip()]
    if not names:
        raise Misconfigured(f"{path} holds no name; write one label a line.")
    return names


def label_ids(bundle: Bundle, names: Iterable[str]) -> list[int]:
    """The ids of these labels, ascending; a name that several labels share means all of them.

    Raises:
        Misconfigured: names no label, or one that the bundle does not have.
    """
    wanted = set(names)
    unknown = sorted(wanted.difference(bundle.labels))
    if unknown:
        raise Misconfigured(
            f"{bundle.name} has no label {unknown[0]!r} ({len(unknown)} of {len(wanted)} are unknown)."
            f"{nearest(unknown[0], bundle.labels)}"
        )
    if not wanted:
        raise Misconfigured(f"The list of allowed labels for {bundle.name} is empty.")
    return [number for number, name in enumerate(bundle.labels) if name in wanted]


def narrowed_digest(digest: str, ids: Sequence[int]) -> str:
    """The digest of a model that scores only these labels."""
    named = ",".join(map(str, ids))
    return hashlib.sha256(f"{digest}\n{named}\n".encode()).hexdigest()


def label_names() -> list[str]:
    """A thousand names by label id, no two alike.

    `imagenet_labels.txt` has one a line: the first of the label's WordNet words ("hog" of "hog, pig, grunter,
    squealer"), or another where that one reads badly or two labels have it ("crane (bird)", "crane (machine)").
    """
    return Path(__file__).with_name("imagenet_labels.txt").read_text(encoding="utf-8").splitlines()


def label_parents() -> list[list[str]]:
    """At most three wider names of each of `label_names`, nearest first; *bubble* has none.

    WordNet's hypernyms, as one who looks for photographs says them. A name stands at all labels below it or at none:
    *mammal* has no room beside *hound* and *dog*.
    """
    text = Path(__file__).with_name("imagenet_parents.txt").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if not line.startswith("#")]
    return [row.split(", ") if row else [] for row in rows]
