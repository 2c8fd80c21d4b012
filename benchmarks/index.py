"""How fast the index takes in outcomes, is rebuilt and searched, and how soon an event is a row.

    python -m benchmarks.index [OUTCOMES [ROUNDS]]      100,000 and 3 by default: about six minutes on a quiet machine
    python -m benchmarks.index --only rates             or latency, or queries

An outcome has 14 of 4,585 tags, drawn by frequency: the most frequent one is in an eighth of the images. `index run`
and the bare loop write the same rows into tables of the same indexes, in turn. The bare loop has the rows read
already, and knows COPY and one merging statement. Queries draw their words and tags by the same frequency; the server's
processor time is that of their backend.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.cached import PHOTOS, cpu_s, made_topics, percentile, spread, uploaded, worker_settings
from index.tests.support import Said, enriched, settings_of, with_tables
from index.tests.world import IndexRun, World
from tagstream_index import Embedding, Query, connected, search
from tagstream_index.database import Connection
from tagstream_index.merge import TIME, of
from tagstream_index.outcomes import CONTENT, HEAD, OF_ROW, values_of
from tagstream_index.rebuild import Rebuild
from tagstream_testing.local.apache_kafka import AS_DEPLOYED
from tagstream_testing.local.stack import LocalStack
from tagstream_testing.local.worker_process import WorkerProcess
from workers.backends.kafka import KafkaEmitter

OUTCOMES, ROUNDS = 100_000, 3
TAKEN_IN, NEW_VECTORS, QUERIES, EVENTS = 20_000, 4_000, 1_000, 60
LABELS, TAGS, DIMENSIONS = 4_585, 14, 512
SPACE = "clip-vit-b-16"
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_NAMES: Final = [f"label{number}" for number in range(LABELS)]
_WEIGHTS: Final = np.cumsum([1 / (number + 20) for number in range(LABELS)]).tolist()
_NUMBERS: Final = np.random.default_rng(1)
_CENTRES: Final = _NUMBERS.normal(size=(LABELS, DIMENSIONS)).astype(np.float32)


def tell(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def drawn(chance: random.Random, count: int) -> list[str]:
    """Different labels, by their frequency."""
    found: dict[str, None] = {}
    while len(found) < count:
        found.update(dict.fromkeys(chance.choices(_NAMES, cum_weights=_WEIGHTS, k=count - len(found))))
    return list(found)


def near(label: str) -> NDArray[np.float16]:
    """A vector of length 1 near those of the label."""
    vector = _CENTRES[int(label[5:])] + 0.5 * _NUMBERS.normal(size=DIMENSIONS).astype(np.float32)
    return (vector / np.linalg.norm(vector)).astype("<f2")  # type: ignore[no-any-return]


def outcomes(count: int, version: int = 1, *, vectors: bool = False) -> Iterator[Said]:
    chance = random.Random(version)
    for number in range(count):
        names = drawn(chance, TAGS)
        scores = sorted((round(chance.uniform(0.3, 1), 4) for _ in names), reverse=True)
        yield enriched(
            f"2026/{number:07d}/picture.jpg",
            version,
            tags=list(zip(names, scores, strict=True)),
            caption=f"a photo of a {names[0]} beside a {names[1]}",
            last_modified=(NOW - timedelta(minutes=chance.randrange(525_600))).isoformat(),
            vector=near(names[0]).tobytes() if vectors else None,
        )


_WRITTEN: Final = ("version", "published", "produced_at", "gone", *CONTENT)
_BARE: Final = f"""
insert into image as t ({", ".join((*HEAD, *CONTENT))})
select distinct on (subject) {", ".join((*HEAD, *CONTENT))} from incoming order by subject, version desc
on conflict (subject) do update set ({", ".join(_WRITTEN)})
    = ({of("excluded", ", ".join(_WRITTEN))})
where ({of("excluded", TIME)}) > ({of("t", TIME)})
""".encode()


def bare(stack: LocalStack, name: str) -> float:
    """Rows a second by COPY and one statement a thousand rows."""
    rows = [values_of(each.row()) for each in outcomes(TAKEN_IN)]
    types = [kind.split()[0].replace("real", "float4") for kind in OF_ROW.values()]
    with closing(with_tables(settings_of(stack.postgresql, name))) as tables:
        began = time.perf_counter()
        for place in range(0, len(rows), 1_000):
            with tables.transaction(), tables.cursor() as cursor:
                with cursor.copy(f"copy incoming ({', '.join(OF_ROW)}) from stdin (format binary)".encode()) as copy:
                    copy.set_types(types)
                    for row in rows[place : place + 1_000]:
                        copy.write_row(row)
                cursor.execute(_BARE)
        return len(rows) / (time.perf_counter() - began)


def world_of(stack: LocalStack, name: str) -> World:
    return World(stack.kafka, stack.postgresql, name, stack.scratch.path, {"cleanup.policy": "compact"})


def server_s(world: World) -> float:
    """Processor time of PostgreSQL so far: its processes', and of those that ended."""
    pid = world.server.pid
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        children = [int(each) for each in file.read().split()]
    with open(f"/proc/{pid}/stat") as file:
        ended = sum(map(int, file.read().rsplit(")", 1)[1].split()[13:15]))
    return ended / os.sysconf("SC_CLK_TCK") + sum(map(cpu_s, children))


def indexed(world: World, until: int) -> tuple[float, float, float]:
    """Records a second of `index run`, from the first rows to so many records; its and the server's time for one."""

    def done() -> int:
        return int(world.ask("select coalesce(sum(next_offset), 0)::bigint from progress"))

    before = done()
    with world.indexer() as indexer:
        while (first := done()) == before:
            time.sleep(0.01)
        began, used = time.perf_counter(), (cpu_s(indexer.pid or 0), server_s(world))
        while (now := done()) < before + until:
            time.sleep(0.2)
        count = now - first
        ours, theirs = cpu_s(indexer.pid or 0) - used[0], server_s(world) - used[1]
        return count / (time.perf_counter() - began), ours / count * 1e6, theirs / count * 1e6


def rates(stack: LocalStack, count: int, rounds: int) -> None:
    made = [world_of(stack, f"rate-{number}") for number in range(rounds)]
    found: list[tuple[float, float]] = []
    for world in made:
        world.publish(outcomes(TAKEN_IN))
        rate, ours, theirs = indexed(world, TAKEN_IN)
        before = server_s(world)
        found.append((rate, bare(stack, f"bare_{len(found)}")))
        alone = (server_s(world) - before) / TAKEN_IN * 1e6
        tell(f"run: {ours:.0f} us a record, the server {theirs:.0f} us; for the bare loop {alone:.0f} us")
    rates_of, bare_of = zip(*found, strict=True)
    ratio = spread([a / b for a, b in found], ".2f", "")
    tell(f"run: {spread(rates_of, ',.0f', '/s')}, bare: {spread(bare_of, ',.0f', '/s')}, ratio {ratio}")
    world = world_of(stack, "whole")
    world.publish(outcomes(count))
    for _ in range(rounds):
        used = time.process_time(), server_s(world)
        seconds = rebuilt(world)
        ours_us, server_us = (time.process_time() - used[0]) / count * 1e6, (server_s(world) - used[1]) / count * 1e6
        tell(f"rebuild: {count / seconds:,.0f} records/s; {ours_us:.0f} us a record, the server {server_us:.0f} us")


def rebuilt(world: World) -> float:
    return float(Rebuild(world.settings, partial=False).run()["seconds"])


def measured(name: str, connection: Connection, queries: list[Callable[[], int]]) -> None:
    """Wall and the backend's processor time of each query."""
    stat = f"/proc/{connection.info.backend_pid}/schedstat"

    def used_ns() -> int:
        with open(stat) as file:
            return int(file.read().split()[0])

    walls, used, found = [], [], 0
    for query in queries:
        began, before = time.perf_counter(), used_ns()
        found += query()
        walls.append((time.perf_counter() - began) * 1000)
        used.append((used_ns() - before) / 1e6)
    shown = [f"{percentile(times, share):.1f}" for times in (used, walls) for share in (0.5, 0.99)]
    tell(
        f"{name}: {found / len(queries):.1f} found of each; server p50 {shown[0]} p99 {shown[1]} ms, "
        f"wall p50 {shown[2]} p99 {shown[3]} ms"
    )


def queries(stack: LocalStack, count: int) -> None:
    world = world_of(stack, "searched")
    world.tables.execute("alter role postgres set maintenance_work_mem = '600MB'")
    world.publish(outcomes(count, vectors=True))
    tell(f"rebuild with a vector each: {rebuilt(world):,.0f} s")
    with closing(connected(world.settings)) as connection:
        connection.execute("set max_parallel_workers_per_gather = 0")
        for name in ("words, tag, since", "nearest", "nearest, tag, since"):
            chance = random.Random(9)
            asked: list[Callable[[], int]] = []
            for _ in range(QUERIES):
                word, tag = drawn(chance, 2)
                since = NOW - timedelta(days=chance.randrange(30, 365))
                like = Embedding(SPACE, near(word)) if "nearest" in name else None
                query = Query("" if like else word, like=like, within=1.0)
                if "tag" in name:
                    query = replace(query, tags=[tag], since=since)
                asked.append(lambda query=query: len(search(query, connection)))  # type: ignore[misc]
            measured(name, connection, asked)
    world.publish(outcomes(NEW_VECTORS, 2, vectors=True))
    rate, ours, theirs = indexed(world, NEW_VECTORS)
    tell(f"run, a new vector each: {rate:,.0f}/s; {ours:.0f} us a record, the server {theirs:.0f} us")
    world.close()


def latency(stack: LocalStack) -> None:
    """From an event's append to its row, of photos that are new, one by one."""
    stack.furnish()
    events, topics = uploaded(stack), made_topics(stack, "latency")
    world = World(stack.kafka, stack.postgresql, topics["output"].replace(".", "-"), stack.scratch.path / "latency")
    settings = {**world.environment, "TAGSTREAM_OUTPUT_TOPIC": topics["output"]}
    worker = stack.add(WorkerProcess(stack.scratch.path / "worker", worker_settings(stack, topics))).start()
    indexer = stack.add(IndexRun(stack.scratch.path / "indexer", settings)).start()
    took = []
    with KafkaEmitter(stack.kafka.servers) as emitter:
        for number, event in enumerate(events):
            began = time.perf_counter()
            emitter.send(topics["input"], b"photos/%d.jpg" % number, event, ())
            emitter.flush()
            while not world.ask(f"select count(*) from image where key = '{number}.jpg'"):
                time.sleep(0.005)
            took.append((time.perf_counter() - began) * 1000)
            time.sleep(random.uniform(0, 0.5))
    took = took[PHOTOS - EVENTS :]
    tell(f"event to row: p50 {statistics.median(took):.0f} ms, p99 {percentile(took, 0.99):.0f} ms of {len(took)}")
    indexer.stop()
    worker.stop()


def main() -> None:
    about = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.index", description=__doc__, formatter_class=about)
    parser.add_argument("outcomes", nargs="?", type=int, default=OUTCOMES)
    parser.add_argument("rounds", nargs="?", type=int, default=ROUNDS)
    parser.add_argument("--only", choices=("latency", "rates", "queries"))
    asked = parser.parse_args()
    with LocalStack(broker_jvm=AS_DEPLOYED) as stack:
        if asked.only in (None, "latency"):
            latency(stack)
        if asked.only in (None, "rates"):
            rates(stack, asked.outcomes, asked.rounds)
        if asked.only in (None, "queries"):
            queries(stack, asked.outcomes)


if __name__ == "__main__":
    main()
