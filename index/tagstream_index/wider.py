"""The wider names of tags: a beagle is a hound, a dog and an animal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from tagstream_index.database import Connection
from tagstream_index.outcomes import Row

MOST_NAMES: Final = 10_000
"""Tags whose wider names are kept, and as many again for what follows from them; names come from records."""
_NAME_CHARS: Final = 100
_KEEP: Final = b"""
insert into wider as known values (%s, %s::text[], %s) on conflict (name) do update
set (parents, told) = (excluded.parents, excluded.told)
where case when excluded.told then (known.parents, known.told) is distinct from (excluded.parents, true)
    else not known.told and cardinality(excluded.parents) > cardinality(known.parents) end
"""


class WiderNames:
    """The table `wider`: for each tag its wider names, as the last outcome tells them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        rows = connection.execute("select name, parents, told from wider").fetchall()
        self._told: dict[str, list[str]] = {name: parents for name, parents, told in rows if told}
        self._names = {name for name, *_ in rows}

    def meet(self, rows: Iterable[Row]) -> None:
        """Keep the wider names that are new, if there is room."""
        new: dict[str, list[str]] = {}
        room = MOST_NAMES - len(self._told)
        for name, parents in _tags(rows):
            if self._told.get(name) != parents and (name in self._told or name in new or len(new) < room):
                new[name] = parents
        if not new:
            return
        kept, names = dict[tuple[str, bool], list[str]](), self._names | new.keys()
        for name, parents in new.items():
            above = [each for each in dict.fromkeys(parents) if each not in ("", name)]
            kept[name, True] = above
            for place, parent in enumerate(above, 1):
                if parent in names or len(names) < 2 * MOST_NAMES:
                    names.add(parent)
                    kept[parent, False] = max(kept.get((parent, False), []), above[place:], key=len)
        with self._connection.transaction(), self._connection.cursor() as cursor:
            # In one order, so that two indexers never wait for each other.
            cursor.executemany(_KEEP, [(name, above, told) for (name, told), above in sorted(kept.items())])
        self._told, self._names = self._told | new, names


def _tags(rows: Iterable[Row]) -> Iterator[tuple[str, list[str]]]:
    """Tags with their wider names, if none is too long."""
    for row in rows:
        for tag in row.tags or ():
            parents = tag.get("parents")
            if parents and max(map(len, (tag["name"], *parents))) <= _NAME_CHARS:
                yield tag["name"], parents
