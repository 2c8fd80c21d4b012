"""The review file: a vocabulary table that people edit.

One tag a line, columns with tabs between them, the most frequent first:

    tag   kind   count   label   decision   into   example

`decision` is empty or one of keep, drop, merge; `into` names the target of a merge. Every run rewrites the table with
its counts, and keeps all decisions, also on tags that it did not find.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, ValidationError

from schemas.text import first_fault
from tagstream_train.parse.mentions import Kind, Mention
from workers.errors import Misconfigured

COLUMNS = ("tag", "kind", "count", "label", "decision", "into", "example")


@dataclass(frozen=True)
class ReviewDecision:
    """A person's decision on a tag."""

    verdict: Literal["keep", "drop", "merge"]
    into: str = ""


Decisions: TypeAlias = Mapping[Mention, ReviewDecision]


@dataclass(frozen=True)
class ReviewRow:
    """A line of the review file."""

    mention: Mention
    count: int
    is_label: bool
    example: str


class _Decided(BaseModel):
    """The columns of a line that are read."""

    tag: str
    kind: Kind
    decision: Literal["keep", "drop", "merge"]
    into: str


def read(path: Path) -> dict[Mention, ReviewDecision]:
    """Read a review file's decisions, with chains of merges resolved.

    Raises:
        Misconfigured: the file is unreadable, or has an impossible decision; with the line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            decisions = dict(_decisions(path, file))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Misconfigured(f"{path} can't be read: {error}.") from None
    return {mention: _final(path, mention, decisions) for mention in decisions}


def _decisions(path: Path, file: Iterable[str]) -> Iterator[tuple[Mention, ReviewDecision]]:
    lines = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, restval="")
    if not {"tag", "kind", "decision", "into"} <= set(lines.fieldnames or ()):
        raise Misconfigured(f"{path} is no review file: its first line has to be {' '.join(COLUMNS)}, with tabs.")
    for row in lines:
        cells = {column: row[column].strip() for column in _Decided.model_fields}
        if cells["decision"]:
            try:
                said = _Decided.model_validate({**cells, "decision": cells["decision"].lower()})
            except ValidationError as error:
                raise Misconfigured(f"{path}, line {lines.line_num}: {first_fault(error)}.") from None
            merged = said.decision == "merge"
            if merged and not said.into:
                raise Misconfigured(f"{path}, line {lines.line_num}: column `into` says not into what {said.tag} goes.")
            yield Mention(said.kind, said.tag), ReviewDecision(said.decision, said.into if merged else "")


def _final(path: Path, mention: Mention, decisions: Decisions) -> ReviewDecision:
    """Resolve a chain of merges."""
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


def write(path: Path, rows: Sequence[ReviewRow], decisions: Decisions) -> None:
    """Write the table; decisions without a row come last, count 0.

    Raises:
        Misconfigured: the file can't be written.
    """
    listed = {row.mention for row in rows}
    rest = [ReviewRow(mention, 0, False, "") for mention in decisions if mention not in listed]
    scratch = path.with_name(f".{path.name}.new")
    try:
        with scratch.open("w", encoding="utf-8", newline="\n") as file:
            file.write("\t".join(COLUMNS) + "\n")
            file.writelines("\t".join(_cells(row, decisions.get(row.mention))) + "\n" for row in (*rows, *rest))
        os.replace(scratch, path)
    except OSError as error:
        raise Misconfigured(f"{path} can't be written: {error.strerror}.") from None


def _cells(row: ReviewRow, decision: ReviewDecision | None) -> Sequence[str]:
    label = "yes" if row.is_label else "no"
    verdict, into = (decision.verdict, decision.into) if decision else ("", "")
    example = " ".join(row.example.split())[:200]
    return row.mention.text, row.mention.kind, str(row.count), label, verdict, into, example
