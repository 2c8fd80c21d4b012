"""Names of tags: those that people begin to type, and those that are spelt almost like a new one."""

from __future__ import annotations

import re
import threading
import time
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from tagstream_index.page.finding import close_names
from tagstream_index.page.one import Bundles
from tagstream_index.page.pool import Pool
from tagstream_index.query import storable
from tagstream_index.searching import Searcher
from workers.errors import TagstreamError

MOST: Final = 20_000
"""Different tags of the index that are kept, the most frequent ones."""
MOST_SPELLINGS: Final = 5
NAME_CHARS: Final = 100
"""Longer tags are not offered: no person can correct them."""
_COUNTED: Final = ((100_000, 3.0), (10_000, 1.0))
"""The newest pictures whose tags are counted, and the seconds for it; fewer if it takes longer."""
_FRESH_S: Final = 5.0
_REST: Final = 30
"""Counting rests as many times as long as it took."""
_COUNTS: Final = f"""
select name, count(*) from (
    select names from image where not gone order by last_modified desc limit %(newest)s
) newest, unnest(names) name
where length(name) <= {NAME_CHARS} group by name order by 2 desc, name limit {MOST}
"""


@dataclass(frozen=True, slots=True)
class Name:
    """A name, and how many of the newest pictures have the tag; None: it is a wider name of tags."""

    name: str
    count: int | None


class Names:
    """Labels of the bundles, wider names and tags of the index. Counted when a reader asks. Thread-safe."""

    def __init__(self, pool: Pool, bundles: Bundles) -> None:
        self._pool, self._bundles = pool, bundles
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "tagstream-names")
        self._counting: Future[None] | None = None
        self._count_at = float("-inf")
        self._known: Sequence[tuple[str, Name]] = ()
        self._take({})

    def begun(self, text: str, limit: int) -> list[Name]:
        """Names that begin so, then names with such a later word; by frequency."""
        self._refresh()
        wanted = _key(text)
        known = [pair for pair in self._known if wanted in pair[0]] if wanted else self._known
        first = islice((each for key, each in known if key.startswith(wanted)), limit)
        return list(dict.fromkeys((*first, *(each for _, each in known[:limit]))))[:limit]

    def knows(self, searcher: Searcher, name: str) -> bool:
        """Whether a bundle or any picture has the name."""
        if name in self._spelt.get(_key(name), ()):
            return True
        text = "select from image where names @> array[%(name)s] and not gone limit 1"
        return searcher.execute(text, {"name": storable(name)}).fetchone() is not None

    def spellings(self, name: str) -> list[str]:
        """Known names that differ in case, signs, number or few letters."""
        near = close_names(_key(name), self._spelt)[:2]
        found = (each for key in (*_numbers(_key(name)), *near) for each in self._spelt.get(key, ()))
        return [each for each in dict.fromkeys(found) if each != name][:MOST_SPELLINGS]

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _refresh(self) -> None:
        with self._lock:
            if time.monotonic() > self._count_at and (self._counting is None or self._counting.done()):
                self._counting = self._thread.submit(self._count)

    def _count(self) -> None:
        began = time.monotonic()
        with suppress(TagstreamError), self._pool.searching() as searcher:  # the database is away: the last ones hold
            counted = (searcher.within(limit_s, _COUNTS, {"newest": newest}) for newest, limit_s in _COUNTED)
            counts = dict(next((rows for rows in counted if rows is not None), ()))
            wider = searcher.execute("select name from wider where not told order by name").fetchall()
            self._take(counts, [name for (name,) in wider])
        now = time.monotonic()
        self._count_at = now + max(_FRESH_S, _REST * (now - began))

    def _take(self, counts: Mapping[str, int], wider: Iterable[str] = ()) -> None:
        """Know these tags and wider names, and those of the bundles."""
        labels, above = self._bundles.names()
        known = [Name(name, count) for name, count in counts.items() if _shown(name)]
        known += [Name(name, 0) for name in labels if name not in counts]
        wide = (name for name in {**dict.fromkeys(wider), **above} if name not in counts and name not in labels)
        known += [Name(name, None) for name in wide if _shown(name)]
        keys = {each.name: key for key, each in self._known}  # to make one takes longer than all else
        self._known = [(keys.get(each.name) or _key(each.name), each) for each in known]
        spelt: dict[str, list[str]] = {}
        for key, each in self._known:
            spelt.setdefault(key, []).append(each.name)
        self._spelt: Mapping[str, Collection[str]] = spelt


def _key(name: str) -> str:
    """The words of a name in lower case, each after a space."""
    text = unicodedata.normalize("NFKC", name[:NAME_CHARS])[:NAME_CHARS].casefold()  # one character may become eighteen
    return "".join(f" {word}" for word in re.findall(r"\w+", text))


def _shown(name: str) -> bool:
    """Whether a person can say this tag: else it would be refused."""
    return name.isprintable() and name.strip() == name


def _numbers(key: str) -> Iterator[str]:
    """The key, and what may be its singular or plural in English."""
    yield from (key, f"{key}s", f"{key}es")
    for end, other in (("s", ""), ("es", ""), ("ies", "y"), ("y", "ies")):
        if key.endswith(end):
            yield key.removesuffix(end) + other
