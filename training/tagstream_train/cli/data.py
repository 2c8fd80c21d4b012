"""`tagstream train import` and `split`: from images and annotations to training sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.printable import counted
from tagstream_train.cli.common import (
    ArgumentOfSet,
    BucketOption,
    GroupsOption,
    JsonOption,
    SetOption,
    existing,
    note_skipped,
    store,
)
from workers.cli import terminal
from workers.cli.terminal import note, say

if TYPE_CHECKING:
    from tagstream_train.data.importer import Imported


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    data: Annotated[
        list[Path], typer.Argument(metavar="DATA", help="Files or folders with annotations. Several become one set.")
    ]
    out: SetOption
    format: Annotated[  # the name of the option
        str | None,
        typer.Option(
            help="folders, csv, coco, karpathy, official, fiftyone, label-studio, annotation-list, webdataset or "
            "tagstream. By default it is guessed.",
            show_default=False,
        ),
    ] = None
    images: Annotated[Path | None, existing("Where the images are, if not near the annotations.", folder=True)] = None
    labels: Annotated[
        Path | None,
        existing("The only labels there are, one a line, in the order of their ids. By default those that come up."),
    ] = None
    groups: GroupsOption = None
    bucket: BucketOption = None
    as_json: JsonOption = False


def import_data(options: ImportOptions) -> None:
    """Make a training set: images, tags, captions and hashes.

    Reads folders (one for each class), a CSV with a column `image` and a column `tags`, COCO, the official JSON,
    exports of FiftyOne and Label Studio, and the official evaluation files. Each image's header is checked;
    SET/skipped.txt lists unusable images. Equal images become one, with the tags of all.

    [dim]One folder for each tag:[/]      tagstream train import photos -o pets

    [dim]COCO's tags and captions:[/]     tagstream train import instances_val2017.json captions_val2017.json -o coco
    """
    from tagstream_train.data.formats import Request, open_source
    from tagstream_train.data.importer import import_dataset
    from workers.models.labels import read_names

    given = tuple(read_names(options.labels)) if options.labels else None
    sources = [
        open_source(Request(path, options.images, given, options.groups), options.format) for path in options.data
    ]
    for path, source in zip(options.data, sources, strict=True):
        note(f"{path} is read as {source.format}; images below {source.root}")
    with terminal.counting("images", None) as count:
        imported = import_dataset(sources, options.out, store=store(options.bucket), report=count)
    for path, source in zip(options.data, sources, strict=True):
        for each in source.notes:
            note(f"{path}: {each}")
    if options.as_json:
        say(terminal.as_json(_document(imported)))
        return
    dataset = imported.dataset
    say(f"{options.out}: {counted(len(dataset), 'image')}, {counted(len(dataset.labels), 'label')}")
    if imported.merged:
        note(f"{counted(imported.merged, 'image')} came again, under the same name or another; the tags were joined")
    note_skipped(imported.skipped, f" ({options.out}/skipped.txt)")


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    dataset: ArgumentOfSet
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the parts' sets; must not exist.")]
    val: Annotated[float, typer.Option(min=0, max=1, help="Part of the images for validation.")] = 0.1
    test: Annotated[float, typer.Option(min=0, max=1, help="Part of the images for tests.")] = 0.1
    salt: Annotated[str, typer.Option(help="Any word; another one gives another division.")] = ""


def split(options: SplitOptions) -> None:
    """Divide a set into train, val and test by image hash.

    So no image is in two parts, and images stay in their part when the set grows. `train fit` divides a set without
    this command, which makes parts for other programs.

    [dim]Four fifths to train with:[/]  tagstream train split pets -o parts
    """
    from tagstream_train.data.importer import write_parts
    from tagstream_train.data.samples import DataSet

    fractions = {"train": 1 - options.val - options.test, "val": options.val, "test": options.test}
    for part in write_parts(DataSet(options.dataset), options.out, fractions, salt=options.salt):
        say(f"{part.folder}: {counted(len(part), 'image')}")


def _document(imported: Imported) -> dict[str, object]:
    return {
        "set": str(imported.dataset.folder),
        "images": len(imported.dataset),
        "labels": len(imported.dataset.labels),
        "merged": imported.merged,
        "skipped": imported.skipped,
    }
