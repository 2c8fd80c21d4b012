"""The papers' loop on drawn images, as a program.

    python -m examples.learn -o FOLDER [--fast] [--seed 0] [--seeds 5] [--json]
    python -m examples.learn -o FOLDER --draw 2000

The first takes some minutes of one core for each seed. It shows each step's gain on images with known truth: mAP on new
images and on unseen combinations, and precision and recall of the tags that each model learned from. The bundles in
FOLDER run like any other. After an interruption the same command resumes. The second draws only the sets, with this
many training images.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from examples.learn.loop import FAST, FULL, Learned, Spread, gains, learn, learn_seeds, means, spread
from examples.learn.sets import draw
from schemas.printable import counted
from tagstream_train.cli.common import progress
from workers.errors import MISCONFIGURED, Misconfigured

_MEASURES = {"mAP": "test", "mAP unseen": "unseen", "tags right": "right", "tags found": "found"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.learn", description="The papers' loop on drawn images.")
    parser.add_argument("--out", "-o", type=Path, required=True, help="folder for sets and bundles")
    parser.add_argument("--fast", action="store_true", help="a minute, which shows that it runs and no more")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--seeds", type=int, default=1, help="run this many seeds, and show the spread")
    parser.add_argument("--json", action="store_true", help="the results as JSON")
    parser.add_argument("--draw", type=int, metavar="IMAGES", help="draw sets with this many training images, and stop")
    options = parser.parse_args(arguments)
    try:
        for line in _drawn(options) if options.draw else _learned(options):
            print(line)
    except Misconfigured as error:
        print(error, file=sys.stderr)
        return MISCONFIGURED
    return 0


def _drawn(options: argparse.Namespace) -> Iterator[str]:
    with progress() as tell:
        sets = draw(
            options.out,
            images=options.draw,
            seed=options.seed,
            report=lambda done, total: tell("images drawn", done, total),
        )
    for dataset in sets.values():
        yield f"{dataset.folder}: {counted(len(dataset), 'image')}, {counted(len(dataset.labels), 'label')}"


def _learned(options: argparse.Namespace) -> Iterable[str]:
    size = FAST if options.fast else FULL
    with progress() as tell:
        if options.seeds == 1:
            found = [learn(options.out, size, seed=options.seed, tell=tell)]
        else:
            found = learn_seeds(options.out, size, range(options.seed, options.seed + options.seeds), tell=tell)
    if options.json:
        documents = [each.model_dump(mode="json") for each in found]
        return [json.dumps({"seeds": documents} if options.seeds > 1 else documents[0], indent=2)]
    return _table(found) if options.seeds == 1 else spreads(found)


def _table(found: Sequence[Learned]) -> Iterator[str]:
    (learned,) = found
    yield _row("round", _MEASURES)
    for each in learned.rounds:
        yield _row(each.name, (f"{getattr(each, measure):.1%}" for measure in _MEASURES.values()))
    yield f"CIDEr-D of captions: {learned.guided:.3f} guided by tags, {learned.unguided:.3f} without"


def spreads(found: Sequence[Learned]) -> Iterator[str]:
    """Means and deviations over seeds, and each round's gain."""
    names = [each.name for each in found[0].rounds]
    yield f"{len(found)} seeds, {found[0].images:,} images, {found[0].steps:,} steps each round; mean ± deviation"
    yield _row("round", _MEASURES)
    columns = [means(found, measure) for measure in _MEASURES.values()]
    for name, *row in zip(names, *columns, strict=True):
        yield _row(name, map(_percent, row))
    yield ""
    yield "gain over the round before, seed by seed, and how many seeds gain"
    for name, *row in zip(names[1:], *(gains(found, measure) for measure in ("test", "unseen")), strict=True):
        yield _row(name, (f"{_percent(each, '+')}, {each.above}" for each in row))
    guided, unguided = ([getattr(each, name) for each in found] for name in ("guided", "unguided"))
    better = spread([one - other for one, other in zip(guided, unguided, strict=True)])
    yield ""
    yield (
        f"CIDEr-D of captions: {spread(guided).mean:.3f} guided by tags, {spread(unguided).mean:.3f} without: "
        f"{better.mean:+.3f} ± {better.deviation:.3f}, gained by {counted(better.above, 'seed')}"
    )


def _row(name: str, cells: Iterable[str]) -> str:
    return "  ".join([f"{name:>10}", *(f"{cell:>14}" for cell in cells)])


def _percent(each: Spread, sign: str = "") -> str:
    return f"{100 * each.mean:{sign}.1f} ± {100 * each.deviation:.1f}"


if __name__ == "__main__":
    sys.exit(main())
