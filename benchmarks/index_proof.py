"""Whether kills change what `tagstream index run` leaves in PostgreSQL, and whether `index check` says so.

    python -m benchmarks.index_proof [SUBJECTS [KILLS]]      60,000 and 10 by default: about ten minutes

Two outcomes at most of each subject, and some told twice, come in any order to any partition: overwrites, removals of
objects and of versions, retags; some have vectors. Two indexers share the partitions. One after the other is killed
and started again, and PostgreSQL crashes twice. In the end the tables must equal a model to the row. The check must
say so, and must name a row that is forged; a rebuild must correct it.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

from index.tests.support import Said, expected, held, story
from index.tests.world import World
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.postgresql import PostgreSQL

SUBJECTS, KILLS, CRASHES = 60_000, 10, 2
EVERY, DIMENSIONS = 21, 512
_WITHIN_S = 3_600.0


def tell(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def broken(world: World, told: list[Said], kills: int, rng: random.Random) -> None:
    """Publish, while indexers are killed and the database crashes."""
    indexers = [world.indexer(name) for name in ("first", "second")]
    indexers[0].start()
    size = -(-len(told) // kills)
    for turn in range(kills):
        world.publish(told[turn * size : (turn + 1) * size], rng)
        if turn == 0:
            indexers[1].start()
        time.sleep(rng.uniform(1, 4))
        victim = rng.choice(indexers)
        victim.kill()
        if turn in range(kills // 3, kills, kills // CRASHES)[:CRASHES]:
            world.server.kill()
            time.sleep(1)
            world.server.start()
        victim.launch()
    until = time.monotonic() + _WITHIN_S
    world.reconnect()
    while world.command("status", "--json").json["lag"]:
        if time.monotonic() > until:
            raise TimeoutError(indexers[0].log_tail(40))
        time.sleep(2)
    for indexer in indexers:
        indexer.stop()


def checked(world: World) -> dict[str, object]:
    done = world.command("check", "--all", "--json")
    report: dict[str, object] = json.loads(done.out)
    if done.code != bool(report["differing"]):
        raise AssertionError(done.err)
    return report


def prove(world: World, subjects: int, kills: int) -> None:
    rng = random.Random(32)
    told = story(rng, subjects, 2, every=EVERY, dimensions=DIMENSIONS, repeats=9)
    model = expected(told)
    vectors = sum(row[-1] is not None for row in model.values())
    tell(f"{len(told):,} outcomes of {len(model):,} subjects, {vectors:,} with vectors in the end")
    began = time.monotonic()
    broken(world, told, kills, rng)
    tell(f"indexed in {time.monotonic() - began:,.0f} s; equal to the model: {held(world.tables) == model}")
    report = checked(world)
    tell(f"check: {report['compared']:,} images of {report['records']:,} records, {report['differing']} differ")
    (forged,) = world.tables.execute(
        "update image set caption = 'forged' where subject = (select max(subject) from image where not gone)"
        " returning subject"
    ).fetchone() or ("",)
    report = checked(world)
    tell(f"{forged} was forged; check: {report['subjects']}")
    rebuilt = world.command("rebuild", "--go", "--json").json
    same = held(world.tables) == model
    rate = rebuilt["records"] / rebuilt["seconds"]
    tell(f"rebuilt in {rebuilt['seconds']:,.1f} s ({rate:,.0f} records/s); equal to the model: {same}")
    tell(f"check: {checked(world)['differing']} differ")


def main() -> None:
    about = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.index_proof", description=__doc__, formatter_class=about)
    parser.add_argument("subjects", nargs="?", type=int, default=SUBJECTS)
    parser.add_argument("kills", nargs="?", type=int, default=KILLS)
    asked = parser.parse_args()
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        kafka = cleanup.enter_context(ApacheKafka(folder / "kafka"))
        server = cleanup.enter_context(PostgreSQL(folder / "postgresql"))
        world = cleanup.enter_context(closing(World(kafka, server, "proof", folder, {"cleanup.policy": "compact"})))
        prove(world, asked.subjects, asked.kills)


if __name__ == "__main__":
    main()
