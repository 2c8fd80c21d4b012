"""What the search page's first answer takes: processor time of the page's server and the database together.

    python -m benchmarks.search_page [PICTURES [REQUESTS]]      100,000 and 1,000 by default

A picture has 14 of 4,585 tags. Words and tags of requests are drawn by the same frequency. The counts beside the grid
are a request of their own, which the script sends after the first answer. Names of tags are completed letter
by letter.
"""

from __future__ import annotations

import random
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import numpy as np
import psycopg

from benchmarks.cached import percentile
from index.tests.support import Said, enriched, settings_of, with_tables, written
from tagstream_testing.local.demo_search import PageProcess
from tagstream_testing.local.postgresql import PostgreSQL
from tagstream_testing.local.scratch import Scratch

PICTURES, REQUESTS = 100_000, 1_000
LABELS, TAGS = 4_585, 14
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_NAMES: Final = [f"label{number}" for number in range(LABELS)]
_WEIGHTS: Final = np.cumsum([1 / (number + 20) for number in range(LABELS)]).tolist()
KINDS: Final = {
    "newest": "/?q={q}",
    "best first": "/?q={q}&sort=best",
    "counts": "/facets?q={q}",
    "names of tags": "/api/tags?prefix={q}",
}


def drawn(chance: random.Random, count: int) -> list[str]:
    """Different labels, by their frequency."""
    found: dict[str, None] = {}
    while len(found) < count:
        found.update(dict.fromkeys(chance.choices(_NAMES, cum_weights=_WEIGHTS, k=count - len(found))))
    return list(found)


def outcomes(count: int) -> Iterator[Said]:
    chance = random.Random(1)
    for number in range(count):
        names = drawn(chance, TAGS)
        scores = sorted((round(chance.uniform(0.3, 1), 4) for _ in names), reverse=True)
        yield enriched(
            f"2026/{number:07d}/picture.jpg",
            tags=list(zip(names, scores, strict=True)),
            caption=f"a photo of a {names[0]} beside a {names[1]}",
            last_modified=(NOW - timedelta(minutes=chance.randrange(525_600))).isoformat(),
        )


def searches(count: int) -> Iterator[str]:
    """Texts as people type them: a word, two, a tag, a word with two filters."""
    chance = random.Random(2)
    for number in range(count):
        one, other = drawn(chance, 2)
        yield (one, f"{one} {other}", f"tag:{one}", f"{one} tag:{other} since:2025-06-01 score>0.5")[number % 4]


def begins(count: int) -> Iterator[str]:
    """Begins of labels, letter by letter."""
    labels = random.Random(3).choices(_NAMES, cum_weights=_WEIGHTS, k=count)
    return islice((label[:end] for label in labels for end in range(1, len(label) + 1)), count)


def used_ns(pids: Sequence[int]) -> int:
    """Processor time so far of all threads of these processes."""
    used = 0
    for stat in (stat for pid in pids for stat in Path(f"/proc/{pid}").glob("task/*/schedstat")):
        with suppress(FileNotFoundError):  # an idle thread ends
            used += int(stat.read_text().split()[0])
    return used


def processes(server: PostgreSQL, folder: Path) -> list[int]:
    """Those of the page, and the backends of its database."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = stat.read_bytes()
            if str(folder).encode() in command:
                found.append(int(stat.parent.name))
    with closing(psycopg.connect(server.dsn)) as connection:
        backends = "select pid from pg_stat_activity where application_name = 'tagstream-index'"
        return found + [pid for (pid,) in connection.execute(backends)]


def main() -> None:
    given = [int(each) for each in sys.argv[1:] if each.isdigit()]
    count, requests = (*given, *(PICTURES, REQUESTS)[len(given) :])
    with Scratch() as scratch:
        server = PostgreSQL(scratch.path / "postgresql")
        server.start()
        try:
            run(server, scratch.path / "page", count, requests)
        finally:
            server.kill()


def run(server: PostgreSQL, folder: Path, count: int, requests: int) -> None:
    settings = settings_of(server, "page")
    with closing(with_tables(settings)) as tables:
        tables.execute("alter role postgres set max_parallel_workers_per_gather = 0")
        made = outcomes(count)
        while part := [said for _, said in zip(range(1_000), made, strict=False)]:
            written(tables, *part)
        tables.execute("vacuum analyze image")
    environment = {
        "TAGSTREAM_INDEX_DSN": server.dsn,
        "TAGSTREAM_INDEX_SCHEMA": "page",
        "TAGSTREAM_S3_ENDPOINT": "http://127.0.0.1:9",
        "TAGSTREAM_BUCKETS": "photos",
    }
    page = PageProcess(folder, environment)
    page.start()
    try:
        for kind, address in KINDS.items():
            measure(kind, address, server, page, requests)
    finally:
        page.kill()


def measure(kind: str, address: str, server: PostgreSQL, page: PageProcess, requests: int) -> None:
    used, walls, size = [], [], 0
    urllib.request.urlopen(f"{page.url}/", timeout=30).close()
    pids = processes(server, page.folder)
    for text in begins(requests) if "prefix" in address else searches(requests):
        asked = f"{page.url}{address.format(q=urlencode({'q': text})[2:])}"
        before, began = used_ns(pids), time.perf_counter()
        with urllib.request.urlopen(asked, timeout=30) as answer:
            size += len(answer.read())
        walls.append((time.perf_counter() - began) * 1000)
        used.append((used_ns(pids) - before) / 1e6)
    shown = [f"{percentile(times, share):.1f}" for times in (used, walls) for share in (0.5, 0.99)]
    line = f"{kind}: processor p50 {shown[0]} p99 {shown[1]} ms, wall p50 {shown[2]} p99 {shown[3]} ms"
    print(f"{line}, {size / requests / 1024:.0f} kB", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
