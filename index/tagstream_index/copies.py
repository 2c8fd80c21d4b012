"""Copies of a picture: equal content, and near ones by their perceptual hashes. Pictures by month."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from psycopg.rows import dict_row

from tagstream_index.database import readable
from tagstream_index.query import Query, storable
from tagstream_index.searching import LIVE, Found, Searcher

NEAR_BITS: Final = 6
"""Most bits in which the hashes of near copies differ."""
MOST_COPIES: Final = 500
MOST_COUNTED: Final = 100
MOST_DATED, MOST_UNREAD = 100_000, 1_000_000
"""The newest hits that are counted by month: read, or without conditions by an index alone."""
_COMPARED: Final = 2_000
"""Copies that are ordered: a flood may have one hash."""
_TRIED_S: Final = 1.0

_DIFFERING: Final = "bit_count(({} # {})::bit(64))"
LARGEST_FIRST: Final = "width::float8 * height desc, bytes desc, last_modified, subject"
"""SQL: the order of copies. The first is the one to keep."""


class Copy(NamedTuple):
    """A copy, and in how many bits its hash differs; None: its content is equal."""

    image: Found
    bits: int | None

    def document(self) -> dict[str, Any]:
        """As JSON: a near copy has `hash_distance`."""
        return self.image.document() | ({"equal": True} if self.bits is None else {"hash_distance": self.bits})


def largest_first(image: Found) -> tuple[int, int, datetime, str]:
    """`LARGEST_FIRST` as a key to sort by."""
    return -image.width * image.height, -image.bytes, image.last_modified, image.subject


def _band(hash_: str, number: int) -> str:
    """SQL of 16 bits of a hash, as the index has it."""
    return f"({hash_} >> {16 * number} & 65535)" if number else f"({hash_} & 65535)"


def _near(hash_: str, shown: str) -> str:
    """SQL of the images `n` near to a hash, each once: one of the four bands differs in at most one bit."""
    looks = []
    for number in range(4):
        band = _band(hash_, number)
        values = ", ".join([band, *(f"{band} # {1 << bit}" for bit in range(16))])
        looks.append(
            f"select {shown} from image n where {_band('n.phash', number)} = any(array[{values}])"
            f" and {_DIFFERING.format('n.phash', hash_)} <= {NEAR_BITS} and n.phash is not null"
            + "".join(f" and {_DIFFERING.format(_band('n.phash', e), _band(hash_, e))} > 1" for e in range(number))
        )
    return " union all ".join(looks)


_COPIES: Final = f"""
with near as materialized (
    select phash, {_DIFFERING.format("phash", "%(phash)s::bigint")} as bits
    from ({_near("%(phash)s::bigint", "n.phash")}) n group by 1 order by 2 limit {MOST_COPIES + 1}
)
select * from (
    (select {{shown}}, null::integer as bits from image where sha256 = %(sha256)s and {LIVE} limit {_COMPARED})
    union all
    (select each.*, bits from near, lateral (
        select {{shown}} from image where {_band("phash", 0)} = {_band("near.phash", 0)} and phash = near.phash
        and sha256 <> %(sha256)s and {LIVE} limit {_COMPARED}
    ) each limit {_COMPARED})
) copies where subject <> %(subject)s order by bits nulls first, {LARGEST_FIRST} limit {MOST_COPIES}
"""


def copies_of(searcher: Searcher, subject: str) -> list[Copy] | None:
    """The copies of an image, at most 500; None: there is no such image.

    Equal contents come first, then the nearest, of these the largest. Of a flood any 2,000 are compared.
    """
    own = searcher.execute(
        f"select sha256, phash from image where subject = %(subject)s and {LIVE}", {"subject": storable(subject)}
    ).fetchone()
    if own is None:
        return None
    sha256, phash = own
    values = {"subject": subject, "sha256": sha256, "phash": phash}
    text = _COPIES.replace("{shown}", searcher.clauses(Query()).shown)
    with searcher.quick(), searcher.connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(text.encode(), values, prepare=False).fetchall()
    return [Copy(bits=row.pop("bits"), image=Found(**row)) for row in rows]


_COUNTS: Final = f"""
select subject, least({MOST_COUNTED}, (select count(*) from (
    (select 1 from image e where e.sha256 = o.sha256 and not e.gone and e.subject <> o.subject
        and ({_DIFFERING.format("e.phash", "o.phash")} <= {NEAR_BITS}) is not true)
    union all {_near("o.phash", "1")}
    limit {MOST_COUNTED + 1}
) each) - (phash is not null)::integer)
from image o where subject = any(%(subjects)s::text[]) and {LIVE}
"""
"""An image with a hash is near to itself."""


def count_copies(searcher: Searcher, subjects: Sequence[str]) -> dict[str, int]:
    """The number of copies of some images, counted up to 100; empty if it takes longer than 1 s."""
    known = [subject for subject in subjects if storable(subject) == subject]
    return dict(searcher.within(_TRIED_S, _COUNTS, {"subjects": known}) or ())


_MONTH: Final = re.compile(r"\d{4}-\d\d").fullmatch


def months(searcher: Searcher, query: Query, among: Sequence[str] | None = None) -> list[tuple[str, int]]:
    """Hits of each month, or of each day of a chosen month.

    Returns:
        Periods as `taken:2026-05` has them, the newest first, of the newest 100,000 hits, without conditions of a
        million; empty if it takes longer than 1 s.
    """
    clauses = searcher.clauses(query)
    conditions = clauses.where.removeprefix(LIVE) + ("" if among is None else " and subject = any(%(among)s::text[])")
    within = [each.values[0] for each in query.filters if each.kind == "taken" and not each.sign]
    unit, form = ("day", "YYYY-MM-DD") if any(map(_MONTH, within)) else ("month", "YYYY-MM")
    text = f"""
        select to_char(part, '{form}'), count(*) from (
            select date_trunc('{unit}', dated) as part from image where not gone and {readable("dated")}{conditions}
            order by dated desc limit {MOST_DATED if conditions else MOST_UNREAD}
        ) hits group by part order by part desc"""
    return searcher.within(_TRIED_S, text, clauses.values | {"among": among}) or []
