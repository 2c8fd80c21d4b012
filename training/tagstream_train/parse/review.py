"""The review file: a vocabulary table that people edit.

One tag a line, columns with tabs between them, the most frequent first:

    tag   kind   count   label   decision   into   example

`decision` is empty or one of keep, drop, merge; `into` names what a merged tag means. Every run writes the table anew
with its counts, and keeps the decisions, those on tags that were not found this time among them.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

from tagstream_train.parse.mentions import Kind, Mention
from workers.errors import Misconfigured

Verdict: TypeAlias = Literal["keep", "drop", "merge"]
COLUMNS = ("tag", "kind", "count", "label", "decision", "into", "example")
MAX_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class Decision:
    """A person's decision on a tag."""

    verdict: Verdict
    into: str = ""


Decisions: TypeAlias = Mapping[Mention, Decision]


@dataclass(frozen=True)
class Row:
    """A line of the review file."""

    mention: Mention
    count: int
    is_label: bool
    example: str


def read(path: Path) -> dict[Mention, Decision]:
    """Read a review file's decisions, with chains of merges resolved.

    Raises:
        Misconfigured: the file can't be read, or says what can't be done; with the line.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Misconfigured(f"{path} has more than {MAX_BYTES:,} bytes.")
        with path.open(encoding="utf-8", newline="") as file:
            decisions = dict(_decisions(path, file))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Misconfigured(f"{path} can't be read: {error}.") from None
    return {mention: _final(path, mention, decisions) for mention in decisions}


def _decisions(path: Path, file: Iterable[str]) -> Iterator[tuple[Mention, Decision]]:
    lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    columns = next(lines, [])
    if not {"tag", "kind", "decision", "into"} <= set(columns):
        raise Misconfigured(f"{path} is no review file: its first line has to be {' '.join(COLUMNS)}, with tabs.")
    for number, cells in enumerate(lines, 2):
        row = dict(zip(columns, (*(cell.strip() for cell in cells), *[""] * len(columns)), strict=False))
        if row["decision"]:
            yield Mention(_kind(path, number, row["kind"]), row["tag"]), _decision(path, number, row)


def _kind(path: Path, number: int, text: str) -> Kind:
    if text not in get_args(Kind):
        raise Misconfigured(f"{path}, line {number}: kind {text!r} is not one of {', '.join(get_args(Kind))}.")
    return cast(Kind, text)


def _decision(path: Path, number: int, row: Mapping[str, str]) -> Decision:
    verdict = row["decision"].lower()
    if verdict not in get_args(Verdict):
        raise Misconfigured(
            f"{path}, line {number}: decision {verdict!r} is not one of {', '.join(get_args(Verdict))}."
        )
    if verdict == "merge" and not row["into"]:
        raise Misconfigured(f"{path}, line {number}: {row['tag']} is merged, but column `into` does not say into what.")
    return Decision(cast(Verdict, verdict), row["into"] if verdict == "merge" else "")


def _final(path: Path, mention: Mention, decisions: Decisions) -> Decision:
    """Resolve a decision whose target is merged itself."""
    decision, passed = decisions[mention], {mention.text}
    while decision.verdict == "merge":
        if decision.into in passed:
            raise Misconfigured(f"{path}: {mention.text} is merged in a circle: {', '.join(sorted(passed))}.")
        passed.add(decision.into)
        following = decisions.get(mention._replace(text=decision.into))
        if following is None or following.verdict == "keep":
            break
        decision = following
    return decision


def write(path: Path, rows: Sequence[Row], decisions: Decisions) -> None:
    """Write the table; decisions without a row come last, count 0.

    Raises:
        Misconfigured: the file can't be written.
    """
    listed = {row.mention for row in rows}
    rest = [Row(mention, 0, False, "") for mention in decisions if mention not in listed]
    scratch = path.with_name(f".{path.name}.new")
    try:
        with scratch.open("w", encoding="utf-8", newline="\n") as file:
            file.write("\t".join(COLUMNS) + "\n")
            file.writelines("\t".join(_cells(row, decisions.get(row.mention))) + "\n" for row in (*rows, *rest))
        os.replace(scratch, path)
    except OSError as error:
        raise Misconfigured(f"{path} can't be written: {error.strerror}.") from None


def _cells(row: Row, decision: Decision | None) -> Sequence[str]:
    label = "yes" if row.is_label else "no"
    verdict, into = (decision.verdict, decision.into) if decision else ("", "")
    example = " ".join(row.example.split())[:200]
    return row.mention.text, row.mention.kind, str(row.count), label, verdict, into, example
