"""`tagstream index copies`: the groups of copies in the whole index, found in memory."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from psycopg.rows import dict_row

from tagstream_index.copies import NEAR_BITS
from tagstream_index.database import Connection
from tagstream_index.searching import LIVE
from workers.assembly.progress import Counting, uncounted

Numbers: TypeAlias = NDArray[np.int64]

_AT: Final = "((ctid::text::point)[0]::bigint << 16 | (ctid::text::point)[1]::bigint)"
_FIELDS: Final = {
    "at": (_AT, ">i8"),
    "hashed": ("(phash is not null)::integer::bigint", ">i8"),
    "phash": ("coalesce(phash, 0)", ">i8"),
    # Without the secret, a client can't make contents that are alike in 64 bits.
    "content": ("('x' || left(md5(%(secret)s || sha256), 16))::bit(64)::bigint", ">i8"),
    "pixels": ("width::float8 * height", ">f8"),
    "bytes": ("bytes::float8", ">f8"),
    "stored": ("extract(epoch from last_modified)::float8", ">f8"),
}
_READ: Final = f"""
copy (select {", ".join(sql for sql, _ in _FIELDS.values())} from image where {LIVE}) to stdout (format binary)
""".encode()
_HEAD, _TAIL, _STEP = 19, 2, 10_000
_ROW: Final = np.dtype(
    [("-", ">i2")] + [part for name, (_, of) in _FIELDS.items() for part in ((f"-{name}", ">i4"), (name, of))]
)
"""PostgreSQL's binary form: the number of fields, and each with its size in front."""
_TOLD: Final = f"""
select {_AT} as at, subject, sha256, width, height, bytes from image where ctid = any(%s::tid[])
""".encode()
_FETCHED: Final = 10_000

_EDGES: Final = [64 * number // 9 for number in range(10)]
_BLOCKS: Final = [(1 << end) - (1 << begin) for begin, end in pairwise(_EDGES)]
MASKS: Final = [np.uint64(sum(chosen)) for chosen in combinations(_BLOCKS, 9 - NEAR_BITS)]
"""Hashes that differ in at most 6 bits are equal in 3 of 9 blocks: one of these masks sorts them side by side."""
_PAIRS: Final = 1 << 20
_COMPARED: Final = 100_000_000
"""Comparisons by one mask, about a second. A million photographs need a hundredth; crafted hashes, which share their
first bits, would need hours."""


class Groups(NamedTuple):
    """Groups of copies, most images first."""

    at: Numbers
    """Place of each image in the table, group by group, the one to keep first."""
    begins: Numbers
    """Of each group in `at`, and the end."""
    freed: NDArray[np.float64]
    """Bytes of each group without the one to keep."""


def groups(connection: Connection, counting: Counting = uncounted) -> Groups:
    """Find all groups of copies, within the caller's transaction. Takes 200 bytes of memory an image."""
    rows = _read(connection, counting)
    hashed = np.flatnonzero(rows["hashed"])
    hashes, first, inverse = np.unique(rows["phash"][hashed].view(np.uint64), return_index=True, return_inverse=True)
    _, first_content, content = np.unique(rows["content"], return_index=True, return_inverse=True)
    parent = np.arange(len(rows["at"]))
    _join(parent, hashed, hashed[first][inverse])
    _join(parent, parent.copy(), first_content[content])
    images = hashed[first]
    with counting("comparisons", len(MASKS)) as advance:
        for mask in MASKS:
            order = np.argsort(hashes & mask)
            for one, other in _pairs(hashes[order], mask, parent, images[order]):
                _join(parent, one, other)
            advance(1)
    return _ordered(rows, parent)


def _read(connection: Connection, counting: Counting) -> dict[str, NDArray[Any]]:
    data = bytearray()
    secret = {"secret": secrets.token_hex(16)}
    with counting("images", None) as advance, connection.cursor().copy(_READ, secret) as copy:
        for number, part in enumerate(copy, 1):
            data += part
            if number % _STEP == 0:
                advance(_STEP)
    rows = np.frombuffer(data, _ROW, (len(data) - _HEAD - _TAIL) // _ROW.itemsize, _HEAD)
    return {name: rows[name].astype(of[1:]) for name, (_, of) in _FIELDS.items()}


def _join(parent: Numbers, one: Numbers, other: Numbers) -> None:
    """Make one group of the groups of each pair. Its first image stands for it, as `parent` of all."""
    while True:
        one, other = parent[one], parent[other]
        apart = one != other
        if not apart.any():
            return
        one, other = one[apart], other[apart]
        np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(up := parent[parent], parent):
            parent[:] = up


def _pairs(
    hashes: NDArray[np.uint64], mask: np.uint64, parent: Numbers, images: Numbers
) -> Iterator[tuple[Numbers, Numbers]]:
    """Pairs of near images of different groups, some at a time. Of a flood, those that lie far apart are left out."""
    keys, found, count, compared = hashes & mask, list[tuple[Numbers, Numbers]](), 0, 0
    new_key = np.append(True, keys[1:] != keys[:-1])
    begins, key = np.flatnonzero(new_key), np.cumsum(new_key) - 1
    at, step, group = np.arange(len(keys)), 1, None
    while True:
        if group is None:
            group = parent[images]
            mixed = np.minimum.reduceat(group, begins) != np.maximum.reduceat(group, begins)
            at = at[mixed[key[at]]]
        at = at[: np.searchsorted(at, len(keys) - step)]
        at = at[key[at] == key[at + step]]
        compared += len(at)
        at = at[: len(at) if compared <= _COMPARED else 0]
        new = at[group[at] != group[at + step]]
        new = new[np.bitwise_count(hashes[new] ^ hashes[new + step]) <= NEAR_BITS]
        if new.size:
            found.append((images[new], images[new + step]))
            count += new.size
        if count >= _PAIRS or (found and not at.size):
            one, other = zip(*found, strict=True)
            yield np.concatenate(one), np.concatenate(other)
            found, count, group = [], 0, None
        if not at.size:
            return
        step += 1


def _ordered(rows: dict[str, NDArray[Any]], group: Numbers) -> Groups:
    size, total = np.bincount(group), np.bincount(group, rows["bytes"])
    some = np.flatnonzero(size[group] > 1)
    pixels, weight, stored = (rows[name][some] for name in ("pixels", "bytes", "stored"))
    of = group[some]
    order = np.lexsort((stored, -weight, -pixels, of, -total[of], -size[of]))
    of, weight = of[order], weight[order]
    begins = np.flatnonzero(np.diff(of, prepend=-1))
    return Groups(rows["at"][some][order], np.append(begins, len(of)), total[of[begins]] - weight[begins])


def documents(connection: Connection, found: Groups) -> Iterator[dict[str, Any]]:
    """Each group as JSON, within the transaction of `groups`."""
    first, begins = 0, found.begins
    while first < len(begins) - 1:
        last = max(first + 1, int(np.searchsorted(begins, begins[first] + _FETCHED, "right")) - 1)
        places = found.at[begins[first] : begins[last]].tolist()
        with connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(_TOLD, ([f"({at >> 16},{at & 65535})" for at in places],))
            told = {row.pop("at"): row for row in cursor}
        for number in range(first, last):
            keep, *others = (told[at] for at in found.at[begins[number] : begins[number + 1]].tolist())
            freed = int(found.freed[number])
            yield {"images": len(others) + 1, "freed_bytes": freed, "keep": keep, "copies": others}
        first = last
