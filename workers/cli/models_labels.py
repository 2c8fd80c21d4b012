"""`tagstream models labels` and `calibrate`: tags in the user's own words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from schemas.printable import counted
from workers.assembly.bundles import describe
from workers.cli import terminal
from workers.cli.terminal import DeviceOption, bars, note, say

if TYPE_CHECKING:
    from workers.models.bundle import Bundle
    from workers.models.calibration import Calibrated

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the new bundle.")]


def labels(
    bundle: Annotated[Path, typer.Argument(help="A bundle of SigLIP, CLIP, RAM or RAM++.")],
    file: Annotated[Path, typer.Argument(help="Labels and their descriptions (.toml), or a list, one label a line.")],
    out: Out,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE",
            help="The bundle whose text tower reads them: for RAM and RAM++ of clip-b16. Default: BUNDLE itself.",
            show_default=False,
        ),
    ] = None,
    rank_on: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="For dual encoders, your own images: of a label without a threshold its share of them gets the tag.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep an existing bundle made of this file.")] = False,
    device: DeviceOption = None,
) -> None:
    """Copy a bundle with labels in your own words.

    The text tower reads each label's descriptions once; a worker needs it no more. Bare nouns score near zero with
    these models, so describe what is to be seen: "a photo of a forklift in a warehouse".

    [dim]Dual encoders:[/]  tagstream models labels bundles/siglip2 labels.toml -o bundles/mine --rank-on ~/Pictures

    [dim]RAM, RAM++:[/]     tagstream models labels bundles/ram labels.toml -o bundles/mine --text bundles/clip-b16
    """
    from workers.assembly.labelling import labelled, require_labelled_by

    if keep and (out / "model.json").is_file():
        say(f"{describe(require_labelled_by(out, file))}: there already, every byte checked")
        return
    with bars() as tell:
        made = labelled(bundle, file, out, text=text, rank_on=rank_on, device=device, tell=tell, note=note)
    say(describe(made))


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="A bundle of SigLIP or CLIP with labels.")],
    examples: Annotated[
        Path, typer.Argument(metavar="FILE.csv", help="image,label,1|0 a line; images are files, or s3://bucket/key.")
    ],
    out: Out,
    least_precision: Annotated[
        float | None, typer.Option(min=0, max=1, help="The lowest threshold of this precision. Default: the best F1.")
    ] = None,
    device: DeviceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, a label each.")] = False,
) -> None:
    """Copy a bundle with scores and thresholds that fit your images.

    Each label with ten examples of each kind gets the two numbers of Platt's scaling and a threshold; the share in the
    label file is put back. Precision and recall are those on unseen examples (five-fold cross-validation), in a stream
    with that share. Scores change, so the digest does.

    [dim]From 100 images on:[/]  tagstream models calibrate bundles/mine examples.csv -o bundles/mine-1
    """
    from workers.assembly.labelling import calibrated

    with bars() as tell:
        made, found = calibrated(
            bundle, examples, out, least_precision=least_precision, device=device, tell=tell, note=note
        )
    _report(made, found, as_json=as_json)
    say(describe(made))


def _report(made: Bundle, found: Mapping[int, Calibrated], *, as_json: bool) -> None:
    table = Table("label", "shown", "not", "precision", "recall", "threshold", "", box=None, pad_edge=False)
    for label, each in found.items():
        name, quality = made.labels[label], each.quality
        if as_json:
            numbers = {"precision": quality.precision, "recall": quality.recall}
            told = {key: None if value != value else value for key, value in numbers.items()}
            counts = {"shown": each.positives, "not_shown": each.negatives}
            rest = {"threshold": made.thresholds[label], "kept": each.refused or None}
            typer.echo(terminal.as_json({"label": name, **counts, **told, **rest}))
            continue
        numbers_told = ["", ""] if each.refused else [f"{quality.precision:.2f}", f"{quality.recall:.2f}"]
        why = f"kept: {each.refused}" if each.refused else ""
        row = (name, str(each.positives), str(each.negatives), *numbers_told, f"{made.thresholds[label]:.3g}", why)
        table.add_row(*map(terminal.text, row))
    if not as_json:
        terminal.console().print(table)
    if rest_count := len(made.labels) - len(found):
        note(f"{counted(rest_count, 'label')} without an example: as before")
