"""How fast copies are found: of one image, of a page of images, and all groups of an index.

    python -m benchmarks copies        a million images: ten minutes and 2 GB of disk

Half of the hashes are drawn evenly, half by bands in which few values are frequent. One in fifty is a copy of the image
before, with up to six bits changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import numpy as np

from benchmarks.cached import percentile
from benchmarks.search_page import used_ns
from index.tests.support import settings_of, with_tables
from tagstream_index import Query
from tagstream_index.copies import copies_of, count_copies, months
from tagstream_index.database import Connection
from tagstream_index.grouping import groups
from tagstream_index.searching import Searcher, searching
from tagstream_testing.local.postgresql import PostgreSQL
from tagstream_testing.local.scratch import Scratch

IMAGES = 1_000_000
FILL = b"""
insert into image (subject, bucket, key, version, published, produced_at, gone, sha256, last_modified, format, width,
    height, bytes, tags, names, scores, provenance, phash)
select 'photos/' || n, 'photos', n, 1, true, 1, false, md5(n::text) || md5(n::text), '2026-01-01'::timestamptz
    - n * interval '5 minutes', 'jpeg', 4000, 3000, 4e6, '[]', '{}', '{}', to_jsonb(repeat(md5(n::text), 20)), phash
from unnest(%s::bigint[]) with ordinality as made (phash, n)
"""


def hashes(chance: np.random.Generator) -> list[int]:
    made = chance.integers(0, 1 << 64, IMAGES, np.uint64)
    made[::2] = (65_536 * chance.random((IMAGES // 2, 4)) ** 3).astype("<u2").view(np.uint64)[:, 0]
    changed = np.uint64(1) << chance.integers(0, 64, (6, IMAGES // 50 - 1), np.uint64)
    made[50::50] = made[49:-1:50] ^ np.bitwise_xor.reduce(changed)
    found: list[int] = made.view(np.int64).tolist()
    return found


def timed(tables: Connection, name: str, ask: Callable[[Searcher, int], object], requests: int) -> None:
    ((backend,),) = tables.execute("select pg_backend_pid()").fetchall()
    walls, used = [], []
    for number in np.random.default_rng(2).integers(1, IMAGES - 60, requests).tolist():
        before, began = used_ns([backend]), time.perf_counter()
        with searching(tables) as searcher:
            ask(searcher, number)
        walls.append((time.perf_counter() - began) * 1000)
        used.append((used_ns([backend]) - before) / 1e6)
    shown = [f"{percentile(times, share):.1f}" for times in (used, walls) for share in (0.5, 0.99)]
    print(f"{name}: server p50 {shown[0]} p99 {shown[1]} ms, wall p50 {shown[2]} p99 {shown[3]} ms")  # noqa: T201


def run(tables: Connection) -> None:
    tables.execute("set statement_timeout = 0")
    tables.execute(FILL, (hashes(np.random.default_rng(1)),))
    tables.execute("vacuum analyze image")
    timed(tables, "copies of one", lambda searcher, n: copies_of(searcher, f"photos/{n}"), 1_000)
    timed(tables, "a page", lambda searcher, n: count_copies(searcher, [f"photos/{n + at}" for at in range(60)]), 100)
    timed(tables, "months", lambda searcher, _: months(searcher, Query()), 10)
    began, used = time.perf_counter(), time.process_time()
    with tables.transaction():
        found = groups(tables)
    times = f"{time.perf_counter() - began:.0f} s, {time.process_time() - used:.0f} s of the client's processor"
    print(f"{len(found.freed):,} groups of {len(found.at):,} images: {times}")  # noqa: T201


def main() -> None:
    with Scratch() as scratch:
        server = PostgreSQL(scratch.path / "postgresql")
        server.start()
        try:
            with closing(with_tables(settings_of(server, "copies"))) as tables:
                run(tables)
        finally:
            server.kill()
