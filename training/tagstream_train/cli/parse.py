"""`tagstream train parse`: captions into tags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from schemas.printable import counted
from tagstream_train.cli.common import ArgumentOfSet, progress
from workers.cli.terminal import note, say


@dataclass(frozen=True, kw_only=True)
class ParseOptions:
    dataset: ArgumentOfSet
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The training set to write; a set may be parsed into itself.")
    ]
    labels: Annotated[
        Path | None, typer.Option(help="The label names, one a line. By default the commonest tags of the captions.")
    ] = None
    review: Annotated[
        Path | None,
        typer.Option(help="A table of the tags (.tsv): written if it is missing, followed if it is there. See below."),
    ] = None
    top: Annotated[int, typer.Option(min=1, max=100_000, help="Without --labels: how many labels at most.")] = 5000
    least: Annotated[int, typer.Option(min=1, help="Without --labels: how often a label must be found.")] = 5


def parse(options: ParseOptions) -> None:
    """Find the objects, scenes, attributes and actions that captions name.

    "Two young women are riding brown horses" gives woman, horse, young, brown and ride. Compound nouns (stop sign) are
    tags where they are common, plurals and synonyms are merged, and the commonest tags become the labels.

    With --review, a table of all tags is written. Fill its column `decision` with keep, drop, or merge (and `into`),
    and run the command again.

    [dim]Example:[/]   tagstream train parse photos/ -o parsed/ --review tags.tsv --least 20
    """
    from tagstream_train.data.samples import DataSet
    from tagstream_train.parse.run import Choices
    from tagstream_train.parse.run import parse as run
    from workers.models.labels import read_names

    choices = Choices(
        labels=[name.strip() for name in read_names(options.labels)] if options.labels else None,
        top=options.top,
        least=options.least,
        review=options.review,
    )
    with progress() as tell:
        parsed = run(DataSet(options.dataset), options.out, choices, lambda done: tell("captions parsed", done, None))
    if parsed.missing:
        missing = counted(len(parsed.missing), "image")
        note(f"{missing} can't be found, the first is {parsed.missing[0]}: training goes without")
    if parsed.foreign:
        note(f"{counted(parsed.foreign, 'caption')} in other languages passed over: only English is parsed")
    found = f"{counted(len(parsed.dataset), 'image')}, {counted(parsed.captions, 'caption')}"
    each = f"{parsed.tags / parsed.captions:.1f} tags each"
    say(f"{options.out}: {found}, {each}, {counted(len(parsed.dataset.labels), 'label')}")
    if options.review:
        say(f"{options.review}: fill the column decision (keep, drop, merge) and run this again")
