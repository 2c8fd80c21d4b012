"""`tagstream models labels` and `calibrate`: tags in the user's own words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from schemas.printable import counted
from workers.assembly.bundles import check_free, describe
from workers.cli import terminal
from workers.cli.terminal import DeviceOption, bars, note, say
from workers.errors import Misconfigured

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workers.assembly.local_files import FailedFile, LocalFiles
    from workers.models.bundle import Bundle
    from workers.models.calibration import Calibrated
    from workers.models.label_file import LabelFile
    from workers.settings import Settings

RANKED = 2_000
"""Images of a folder that thresholds by rank are found with."""
_SHOWN = 5
"""Names in a note."""

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
    _own_labels(bundle, file, out, text, rank_on, keep, device)


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="A bundle of SigLIP or CLIP with labels.")],
    examples: Annotated[
        Path, typer.Argument(metavar="FILE.csv", help="image,label,1|0 a line; images are files, or s3://bucket/key.")
    ],
    out: Out,
    least_precision: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="The lowest threshold of this precision. Default: the best F1."),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Where reliability is drawn. Default: beside OUT.", show_default=False),
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
    from workers.models.bundle import Bundle
    from workers.models.calibration import DEFAULT_SHARE, LEAST_IMAGES
    from workers.models.calibration import calibrate as calibrated
    from workers.models.dual.config import KINDS
    from workers.models.examples import read_examples
    from workers.models.own_labels import uncalibrated, with_calibration

    opened = Bundle.open(bundle)
    if opened.manifest.kind not in KINDS or not opened.labels:
        raise Misconfigured(
            f"{bundle} has no labels of a dual encoder; make some with `tagstream models labels`. RAM's thresholds are "
            "found by `tagstream train fit`."
        )
    check_free(out, replace=False)
    told = read_examples(examples, opened.labels)
    if len(told.images) < LEAST_IMAGES:
        raise Misconfigured(f"{examples} has {counted(len(told.images), 'image')}; calibration needs {LEAST_IMAGES}.")
    settings = _settings(bundle, device)
    scored = _logits(settings, _example_images(settings, told.images, examples.parent), opened)
    if len(scored) < LEAST_IMAGES:
        raise Misconfigured(f"only {counted(len(scored), 'image')} could be read; calibration needs {LEAST_IMAGES}.")
    import numpy as np

    z = dict(zip(scored, uncalibrated(opened, np.stack(list(scored.values()))), strict=True))
    source = opened.manifest.provenance.labels
    shares = dict(enumerate(source.shares if source is not None else ()))
    found = {}
    for label, marks in sorted(told.marks.items()):
        of_label = [(z[image][label], shown) for image, shown in marks.items() if image in z]
        values, shown = (np.array([pair[i] for pair in of_label], kind) for i, kind in enumerate((float, bool)))
        share = shares.get(label) or DEFAULT_SHARE
        found[label] = calibrated(values, shown, share, least_precision=least_precision)
    made = with_calibration(opened, out, found)
    drawn = picture or out.with_name(f"{out.name}-reliability.svg")
    drawn.write_text(_picture(found), encoding="utf-8")
    _report(made, found, as_json=as_json)
    bare = [made.labels[label] for label in found if shares.get(label) is None]
    if bare:
        note(f"{_named(bare)}: no share in the label file, so {DEFAULT_SHARE:g} of the images is taken; write `share`.")
    say(describe(made))
    say(f"reliability: {drawn}")


def _own_labels(
    bundle: Path, file: Path, out: Path, text: Path | None, rank_on: Path | None, keep: bool, device: str | None
) -> None:
    import numpy as np

    from workers.assembly.local_files import LocalFiles, image_files
    from workers.models.bundle import Bundle
    from workers.models.calibration import DEFAULT_SHARE
    from workers.models.dual.config import KINDS
    from workers.models.dual.text import open_text
    from workers.models.label_file import read_label_file
    from workers.models.manifest import LabelSource
    from workers.models.own_labels import (
        LEAST_RANKED,
        by_rank,
        require_takes_labels,
        uncalibrated,
        with_calibration,
        with_own_labels,
    )

    opened, read = Bundle.open(bundle), read_label_file(file)
    if keep and (out / "model.json").is_file():
        _require_made_of(out, read, file)
        return
    check_free(out, replace=False)
    require_takes_labels(opened)
    dual = opened.manifest.kind in KINDS
    if text is None and not dual:
        raise Misconfigured(
            f"{bundle} has no text tower to read {file}: give --text with a bundle of clip-b16 "
            "(`tagstream models pull clip-b16 -o bundles/clip-b16`)."
        )
    if rank_on is not None and not dual:
        raise Misconfigured(f"--rank-on is for dual encoders: the scores of {opened.manifest.kind} need no such help.")
    files = [] if rank_on is None else image_files([rank_on])
    if rank_on is not None and len(files) < LEAST_RANKED:
        raise Misconfigured(f"{rank_on} has {counted(len(files), 'image')}; a threshold by rank needs {LEAST_RANKED}.")
    settings = _settings(bundle, device)
    with bars() as tell:
        encoder = open_text(opened if text is None else Bundle.open(text), device=settings.device)
        shares = tuple(label.share for label in read.labels)
        told = LabelSource(file=file.name, sha256=read.sha256, text=encoder.name, shares=shares)
        made = with_own_labels(opened, read, encoder, out, told, lambda done, of: tell("reading labels", done, of))
        long = [label.name for label in read.labels if encoder.cut(read.sentences(label))]
    if long:
        note(f"{_named(long)}: a description is longer than the text tower reads, and its end is left out; shorten it.")
    if files:
        scored = _logits(_settings(out, device), LocalFiles(files[:: -(-len(files) // RANKED)]), made)
        logits = uncalibrated(made, np.stack(list(scored.values()))) if scored else np.empty((0, 0))
        ranked = by_rank(logits, [share or DEFAULT_SHARE for share in shares])
        found = {number: each for number, each in enumerate(ranked) if read.labels[number].threshold is None}
        made = with_calibration(made, out, found, replace_existing=True)
    say(describe(made))
    _advise(read, ranked=bool(files), dual=dual)


def _require_made_of(out: Path, read: LabelFile, file: Path) -> None:
    """
    Raises:
        Misconfigured: the bundle there is damaged, or has the labels of another file.
    """
    from workers.models.bundle import Bundle

    there = Bundle.open(out)
    source = there.manifest.provenance.labels
    if source is None or source.sha256 != read.sha256:
        raise Misconfigured(f"{out} is not made of {file} as it is now; choose another name.")
    there.verify()
    say(f"{describe(there)}: there already, every byte checked")


def _advise(read: LabelFile, *, ranked: bool, dual: bool) -> None:
    from workers.models.template import with_article

    if bare := read.bare:
        first = with_article(bare[0])
        note(
            f"{_named(bare)}: a bare noun scores near zero with these models. Describe what is to be seen, such as "
            f'descriptions = ["{first} seen from the front", "{first} among other things"].'
        )
    guessed = [label.name for label in read.labels if label.threshold is None]
    if dual and guessed and not ranked:
        note(
            f"{_named(guessed)}: the threshold is a guess. Give --rank-on with a folder of your own images, or "
            "examples to `tagstream models calibrate`."
        )


def _settings(tagger: Path, device: str | None) -> Settings:
    from workers.environment import read_here

    place = {} if device is None else {"TAGSTREAM_DEVICE": device}
    return read_here(**{"TAGSTREAM_TAGGER": str(tagger), "TAGSTREAM_LABELS_FILE": "", **place})


def _logits(settings: Settings, files: LocalFiles, bundle: Bundle) -> dict[int, NDArray[np.float32]]:
    """The tagger's raw answers by the number of the file; files that can't be read are named and left out."""
    from workers.assembly.local_files import BATCH, FailedFile, answers_of
    from workers.models.load import load_tagger

    tagger = load_tagger(
        bundle.folder, device=settings.device, precision=settings.precision, state_dir=settings.state_dir
    )
    tagger.max_batch = tagger.max_batch or BATCH
    tagger.warm_up()
    failed: list[FailedFile] = []
    scored: dict[int, Any] = {}
    with bars() as tell:
        for each in answers_of(settings, files, tagger):
            if isinstance(each, FailedFile):
                failed.append(each)
            else:
                scored[each[0]] = each[1]
            tell("looking at images", len(scored) + len(failed), len(files.paths))
    if failed:
        note(f"{counted(len(failed), 'image')} left out; the first is {failed[0].path}: {failed[0].detail}")
    return scored


def _example_images(settings: Settings, images: Sequence[str], beside: Path) -> LocalFiles:
    from workers.assembly.clients import object_store
    from workers.assembly.local_files import LocalFiles, StoredFiles

    if not any(image.startswith("s3://") for image in images):
        return LocalFiles([beside / image for image in images])
    return StoredFiles(images, beside, object_store(settings))


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


def _picture(found: Mapping[int, Calibrated]) -> str:
    """Reliability of all calibrated labels together, on unseen examples."""
    import numpy as np

    from workers.models.calibration import Floats, reliability, stream_weights
    from workers.page.reliability import reliability_picture

    good = [each for each in found.values() if not each.refused]

    def points(of: Callable[[Calibrated], Floats]) -> list[tuple[float, float, int]]:
        if not good:
            return []
        weights = np.concatenate([stream_weights(each.shown, each.share) for each in good])
        shown = np.concatenate([each.shown for each in good])
        return [*reliability(np.concatenate([of(each) for each in good]), shown, weights)]

    panels = [
        ("before", points(lambda each: each.before)),
        ("calibrated, unseen images", points(lambda each: each.unseen)),
    ]
    return reliability_picture("Reliability before and after calibration", panels)


def _named(names: Sequence[str]) -> str:
    """Some of the names, and how many others there are."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
