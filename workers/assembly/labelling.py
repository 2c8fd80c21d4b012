"""Gives bundles labels in own words, and calibrates them by images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.printable import counted
from workers.assembly.bundles import check_free
from workers.assembly.clients import object_store
from workers.assembly.local_files import BATCH, FailedFile, LocalFiles, StoredFiles, answers_of, image_files
from workers.assembly.progress import Tell
from workers.environment import read_here
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.calibration import DEFAULT_SHARE, LEAST_IMAGES, Calibrated, calibrate
from workers.models.dual.config import KINDS
from workers.models.dual.text import open_text
from workers.models.labels import LabelFile, read_examples, read_label_file
from workers.models.load import load_tagger
from workers.models.manifest import LabelSource
from workers.models.own_labels import (
    LEAST_RANKED,
    by_rank,
    require_takes_labels,
    uncalibrated,
    with_calibration,
    with_own_labels,
)
from workers.models.template import with_article
from workers.settings import Settings

RANKED = 2_000
"""Images of a folder that thresholds by rank are found with."""
_SHOWN = 5
"""Names in a note."""

Note = Callable[[str], object]


def labelled(
    bundle: Path,
    file: Path,
    out: Path,
    *,
    text: Path | None,
    rank_on: Path | None,
    device: str | None,
    tell: Tell,
    note: Note,
) -> Bundle:
    """Write a copy of a bundle with the labels of a file.

    Args:
        text: the bundle whose text tower reads them; None: the bundle itself.
        rank_on: a folder of images by which labels without a threshold get one.

    Raises:
        Misconfigured: a file, a folder or a bundle can't be used for this, or `out` exists.
    """
    opened, read = Bundle.open(bundle), read_label_file(file)
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
    encoder = open_text(opened if text is None else Bundle.open(text), device=_settings(bundle, device).device)
    shares = tuple(label.share for label in read.labels)
    told = LabelSource(file=file.name, sha256=read.sha256, text=encoder.name, shares=shares)
    made = with_own_labels(opened, read, encoder, out, told, lambda done, of: tell("reading labels", done, of))
    long = [label.name for label in read.labels if encoder.cut(read.sentences(label))]
    if long:
        note(f"{_named(long)}: a description is longer than the text tower reads, and its end is left out; shorten it.")
    if files:
        some = LocalFiles(files[:: -(-len(files) // RANKED)])
        scored = _logits(_settings(out, device), some, made, tell, note)
        logits = uncalibrated(made, np.stack(list(scored.values()))) if scored else np.empty((0, 0))
        ranked = by_rank(logits, [share or DEFAULT_SHARE for share in shares])
        found = {number: each for number, each in enumerate(ranked) if read.labels[number].threshold is None}
        made = with_calibration(made, out, found, replace_existing=True)
    _advise(read, note, guessed=dual and not files)
    return made


def require_labelled_by(out: Path, file: Path) -> Bundle:
    """The bundle there, once all its bytes are checked.

    Raises Misconfigured: it is damaged, or has the labels of another file.
    """
    there = Bundle.open(out)
    source = there.manifest.provenance.labels
    if source is None or source.sha256 != read_label_file(file).sha256:
        raise Misconfigured(f"{out} is not made of {file} as it is now; choose another name.")
    there.verify()
    return there


def calibrated(
    bundle: Path,
    examples: Path,
    out: Path,
    *,
    least_precision: float | None,
    device: str | None,
    tell: Tell,
    note: Note,
) -> tuple[Bundle, Mapping[int, Calibrated]]:
    """Write a copy of a bundle with calibrated labels; returns it, and the calibrations by label id.

    Raises Misconfigured: the bundle has no labels to calibrate, there are too few images, or `out` exists.
    """
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
    if any(image.startswith("s3://") for image in told.images):
        images: LocalFiles = StoredFiles(told.images, examples.parent, object_store(settings))
    else:
        images = LocalFiles([examples.parent / image for image in told.images])
    scored = _logits(settings, images, opened, tell, note)
    if len(scored) < LEAST_IMAGES:
        raise Misconfigured(f"only {counted(len(scored), 'image')} could be read; calibration needs {LEAST_IMAGES}.")
    z = dict(zip(scored, uncalibrated(opened, np.stack(list(scored.values()))), strict=True))
    source = opened.manifest.provenance.labels
    shares = dict(enumerate(source.shares if source is not None else ()))
    found = {}
    for label, marks in sorted(told.marks.items()):
        of_label = [(z[image][label], shown) for image, shown in marks.items() if image in z]
        values, shown = (np.array([pair[i] for pair in of_label], kind) for i, kind in enumerate((float, bool)))
        found[label] = calibrate(values, shown, shares.get(label) or DEFAULT_SHARE, least_precision=least_precision)
    bare = [opened.labels[label] for label in found if shares.get(label) is None]
    if bare:
        note(f"{_named(bare)}: no share in the label file, so {DEFAULT_SHARE:g} of the images is taken; write `share`.")
    return with_calibration(opened, out, found), found


def _advise(read: LabelFile, note: Note, *, guessed: bool) -> None:
    if bare := read.bare:
        first = with_article(bare[0])
        note(
            f"{_named(bare)}: a bare noun scores near zero with these models. Describe what is to be seen, such as "
            f'descriptions = ["{first} seen from the front", "{first} among other things"].'
        )
    without = [label.name for label in read.labels if label.threshold is None]
    if guessed and without:
        note(
            f"{_named(without)}: the threshold is a guess. Give --rank-on with a folder of your own images, or "
            "examples to `tagstream models calibrate`."
        )


def _settings(tagger: Path, device: str | None) -> Settings:
    place = {} if device is None else {"TAGSTREAM_DEVICE": device}
    return read_here(**{"TAGSTREAM_TAGGER": str(tagger), "TAGSTREAM_LABELS_FILE": "", **place})


def _logits(
    settings: Settings, files: LocalFiles, bundle: Bundle, tell: Tell, note: Note
) -> dict[int, NDArray[np.float32]]:
    """The tagger's raw answers by the number of the file; files that can't be read are named and left out."""
    tagger = load_tagger(
        bundle.folder, device=settings.device, precision=settings.precision, state_dir=settings.state_dir
    )
    tagger.max_batch = tagger.max_batch or BATCH
    tagger.warm_up()
    failed: list[FailedFile] = []
    scored: dict[int, NDArray[np.float32]] = {}
    for each in answers_of(settings, files, tagger):
        if isinstance(each, FailedFile):
            failed.append(each)
        else:
            scored[each[0]] = each[1]
        tell("looking at images", len(scored) + len(failed), len(files.paths))
    if failed:
        note(f"{counted(len(failed), 'image')} left out; the first is {failed[0].path}: {failed[0].detail}")
    return scored


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
