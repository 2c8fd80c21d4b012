"""A file of changes, page by page and by label."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from workers.assembly.choices import Choice, Choices, choose
from workers.files import require_writable
from workers.retag.changes import Changed, ChangesHead, read_changes
from workers.tables import TemporaryTables

_LABELS: Final = 40
_ROWS: Final = 1_000
_TABLES: Final = """
create table picture (rank integer primary key, line blob);
create table label (name text, rank int, gained int, primary key (name, rank, gained)) without rowid;
"""
_COUNTED: Final = """
select name, sum(not gained), sum(gained) from label group by name order by count(*) desc, name limit ?
"""
_PICTURES: Final = "select rank, line from picture where rank"
SIDES: Final = {"": "", "lost": "and not gained", "gained": "and gained"}
"""Which pictures of a label, as SQL."""


class LabelChanges(NamedTuple):
    """A label, and how many pictures lose and gain it."""

    name: str
    lost: int
    gained: int


class Changes(TemporaryTables):
    """A file of changes and people's choices, kept in a temporary one. In a `with`; thread-safe after `load`."""

    def __init__(self, path: Path, choices: Path | None = None) -> None:
        super().__init__(_TABLES, f"--changes {path}: it can't be kept")
        self._path, self.choices, self._lock = path, choices, threading.Lock()

    def load(self) -> None:
        """Read the file. Raises Misconfigured: it or the choices can't be used."""
        if self.choices is not None:
            require_writable(self.choices.parent)
        self.head: ChangesHead
        self.head, lines = read_changes(self._path)
        numbered = enumerate(lines)
        while some := list(islice(numbered, _ROWS)):
            self._write("insert into picture values (?, ?)", [(rank, each.model_dump_json()) for rank, each in some])
            names = [
                (name, rank, gained)
                for rank, changed in some
                for gained, names in enumerate((changed.lost, changed.gained))
                for name in names
            ]
            self._write("insert or ignore into label values (?, ?, ?)", names)
        self.labels = [LabelChanges(*row) for row in self._stored.execute(_COUNTED, (_LABELS,))]
        self.said()

    def said(self) -> Choices | None:
        """The verdicts until now; None: they can't be judged. Raises as `Choices.read`."""
        return None if self.choices is None else choose(self.choices, self.head.name, {})

    def judge(self, name: str, verdicts: Mapping[int, Choice]) -> Choices | None:
        """Keep verdicts, by rank, and return all; None: `name` is not that of these changes. Raises as `choose`."""
        if self.choices is None or name != self.head.name:
            return None
        ranks = json.dumps(list(verdicts))
        with self._lock:
            rows = self._stored.execute(f"{_PICTURES} in (select value from json_each(?))", (ranks,)).fetchall()
        subjects = {rank: Changed.model_validate_json(line).subject for rank, line in rows}
        return choose(self.choices, name, {subjects[rank]: said for rank, said in verdicts.items() if rank in subjects})

    def part(self, label: str, side: str, first: int, most: int) -> tuple[list[tuple[int, Changed]], int]:
        """Pictures by rank, the most changed first, and how many there are.

        Args:
            label: that they lose or gain, as `side` of `SIDES` says; empty: any.
            first: number of the first one, from 0 on.
        """
        ranks = f"select rank from label where name = ? {SIDES[side]}"
        with self._lock:
            if label:
                (total,) = self._stored.execute(f"select count(*) from ({ranks})", (label,)).fetchone()
                chosen = f"in ({ranks} order by rank limit ? offset ?)"
                asked: tuple[object, ...] = (label, most, first)
            else:
                total, chosen, asked = self.head.lines, "between ? and ?", (first, first + most - 1)
            rows = self._stored.execute(f"{_PICTURES} {chosen} order by rank", asked).fetchall()
        return [(rank, Changed.model_validate_json(line)) for rank, line in rows], total
