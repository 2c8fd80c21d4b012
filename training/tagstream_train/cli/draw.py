"""`tagstream train draw`: a set of images that the project draws itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from schemas.printable import counted
from tagstream_train.cli.progress import progress
from workers.cli.models_terminal import say


def draw(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="SETS", help="The folder to write; must be empty.")],
    images: Annotated[int, typer.Option(min=2, max=1_000_000, help="To learn from; a fifth as many for each test.")] = (
        2000
    ),
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same images.")] = 0,
    side: Annotated[int, typer.Option(min=32, max=512, help="Of an image, pixels.")] = 96,
) -> None:
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
        sets = run(out, images=images, seed=seed, side=side, report=lambda done, of: tell("images drawn", done, of))
    for dataset in sets.values():
        say(f"{dataset.folder}: {counted(len(dataset), 'image')}, {counted(len(dataset.labels), 'label')}")
