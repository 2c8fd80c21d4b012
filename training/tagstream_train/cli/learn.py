"""`tagstream train draw` and `learn`: the papers' loop on drawn images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.printable import counted
from tagstream_train.cli.common import JsonOption, progress
from workers.cli import terminal
from workers.cli.terminal import say

if TYPE_CHECKING:
    from tagstream_train.learn import Learned, Spread


_MEASURES = {"mAP": "test", "mAP unseen": "unseen", "tags right": "right", "tags found": "found"}


@dataclass(frozen=True, kw_only=True)
class LearnOptions:
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for sets and bundles; empty, or this command's own.")
    ]
    fast: Annotated[bool, typer.Option("--fast", help="A minute, which shows that it runs and no more.")] = False
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0
    seeds: Annotated[
        int, typer.Option(min=1, max=99, help="Do it all with so many seeds, from --seed on, and show the spread.")
    ] = 1
    as_json: JsonOption = False


def learn(options: LearnOptions) -> None:
    """Run the papers' whole loop on drawn images, and measure it.

    It draws, parses captions, trains, generates, cleans, trains again and fine-tunes.

    It takes some minutes of one core for each seed, and shows on images whose truth is known what each step of
    the papers is worth: mAP on new images and on combinations never seen, and how right and how complete
    the tags were that each model learned from. The bundles stay in the folder and run as any other.

    With --seeds every seed has a folder of its own in OUT. Stopped, the same command goes on where it was; what is
    there is not made again.
    """
    from tagstream_train.learn import FAST, FULL, learn_seeds
    from tagstream_train.learn import learn as run

    size = FAST if options.fast else FULL
    with progress() as tell:
        if options.seeds == 1:
            found = [run(options.out, size, seed=options.seed, tell=tell)]
        else:
            found = learn_seeds(options.out, size, range(options.seed, options.seed + options.seeds), tell=tell)
    if options.as_json:
        documents = [each.model_dump(mode="json") for each in found]
        say(terminal.as_json({"seeds": documents} if options.seeds > 1 else documents[0]))
        return
    for line in _table(found) if options.seeds == 1 else spreads(found):
        say(line)


def _table(found: Sequence[Learned]) -> Iterator[str]:
    (learned,) = found
    yield _row("round", _MEASURES)
    for each in learned.rounds:
        yield _row(each.name, (f"{getattr(each, measure):.1%}" for measure in _MEASURES.values()))
    yield f"CIDEr-D of captions: {learned.guided:.3f} guided by tags, {learned.unguided:.3f} without"


def spreads(found: Sequence[Learned]) -> Iterator[str]:
    """Means and deviations over seeds, and each round's gain."""
    from tagstream_train.learn import gains, means, spread

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


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    out: Annotated[Path, typer.Option("--out", "-o", metavar="SETS", help="The folder to write; must be empty.")]
    images: Annotated[
        int, typer.Option(min=2, max=1_000_000, help="Training images; each test gets a fifth as many.")
    ] = 2000
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same images.")] = 0
    side: Annotated[int, typer.Option(min=32, max=512, help="Side of an image in pixels.")] = 96


def draw(options: DrawOptions) -> None:
    """Draw images to try training on.

    Shapes with colours, textures and sizes, on grounds, that touch and cover.

    Their captions are as the web has them: they leave out, err and advertise. What is true of each image is known, so
    how much a model learned from such captions can be measured.

    [dim]SETS/train:[/]   images with captions of the web, and no tag
    [dim]SETS/truth:[/]   the same images with all true tags
    [dim]SETS/test:[/]    other images with the truth
    [dim]SETS/unseen:[/]  images with the truth, each with a shape in a colour that SETS/train never has
    """
    from tagstream_train.drawn.sets import draw as run

    with progress() as tell:
        sets = run(
            options.out,
            images=options.images,
            seed=options.seed,
            side=options.side,
            report=lambda done, of: tell("images drawn", done, of),
        )
    for dataset in sets.values():
        say(f"{dataset.folder}: {counted(len(dataset), 'image')}, {counted(len(dataset.labels), 'label')}")
