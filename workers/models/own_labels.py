"""Gives bundles labels in the user's own words: vectors of a label file's sentences, thresholds by rank.

A label is one vector, the mean of its sentences' (each description in each template), made unit again. RAM++ weighs
descriptions for each image, so it keeps a row for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from schemas.printable import counted
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.calibration import Calibrated, Floats, Line
from workers.models.dual.adapters import BACKGROUND, VECTORS, A, B
from workers.models.dual.config import KINDS, space_of
from workers.models.dual.importer import FLOOR, Labels, with_labels
from workers.models.dual.text import TextEncoder
from workers.models.labels import LabelFile
from workers.models.manifest import LabelSource
from workers.models.ram.relabel import THRESHOLD, with_matrix

GUESSES: Final = {"siglip": 0.1, "clip": 0.9}
"""Thresholds of labels for which nothing better is known, by the kind of bundle."""
LEAST_RANKED: Final = 100
"""Images by whose scores a threshold is found."""
_AT_ONCE: Final = 1024
"""Sentences that are encoded together."""


def require_takes_labels(bundle: Bundle) -> None:
    """Raises Misconfigured: a bundle whose labels are learnt one by one."""
    if space_of(bundle.manifest) is None:
        raise Misconfigured(
            f"{bundle.folder} is a bundle of the kind {bundle.manifest.kind!r}, whose labels are learnt one by one; "
            "dual encoders (siglip, clip), RAM and RAM++ take others. Train it with `tagstream train fit`."
        )


def with_own_labels(
    bundle: Bundle,
    file: LabelFile,
    encoder: TextEncoder,
    out: Path,
    told: LabelSource,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Bundle:
    """Write a copy of a bundle with the labels of a file.

    Raises Misconfigured: the bundle takes no labels, the encoder's vectors are of another space, or `out` exists.
    """
    require_takes_labels(bundle)
    encoder.require_space(space_of(bundle.manifest) or "", bundle.name)
    rows = list(_rows(file, encoder, progress))
    names, kind = tuple(label.name for label in file.labels), bundle.manifest.kind
    provenance = bundle.manifest.provenance.model_copy(update={"labels": told})
    guess = GUESSES.get(kind, THRESHOLD)
    thresholds = tuple(guess if label.threshold is None else label.threshold for label in file.labels)
    parents = [label.parents for label in file.labels]
    if kind in KINDS:
        tensors = {VECTORS: _means(rows), A: torch.ones(len(names)), B: torch.zeros(len(names))}
        if kind == "clip":
            tensors[BACKGROUND] = encoder.encode(file.background)
        changed = bundle.manifest.model_copy(update={"floor": min(FLOOR, *thresholds), "provenance": provenance})
        labels = Labels(names, tensors, thresholds, file.translations, parents)
        return with_labels(replace(bundle, manifest=changed), out, labels, source=told.file)
    if kind == "ram_plus":  # equally many descriptions of each label: those of labels with fewer come again
        most = max(len(each) for each in rows)
        matrix = torch.cat([each[torch.arange(most) % len(each)] for each in rows])
    else:
        matrix = _means(rows)
    changed = bundle.manifest.model_copy(update={"provenance": provenance})
    return with_matrix(
        replace(bundle, manifest=changed),
        matrix,
        names,
        out,
        source=Path(told.file),
        thresholds=thresholds,
        translations=file.translations,
        parents=parents,
    )


def by_rank(logits: Floats, shares: Sequence[float]) -> list[Calibrated]:
    """Calibrations that give the tag to these shares of the images.

    Args:
        logits: (images, labels), the model's own.

    Raises:
        Misconfigured: too few images.
    """
    images = len(logits)
    if images < LEAST_RANKED:
        raise Misconfigured(
            f"{counted(images, 'image')} could be scored, and {LEAST_RANKED} are needed to find thresholds by rank."
        )
    falling = -np.sort(-logits.T)
    places = [min(max(1, round(share * images)), images - 1) for share in shares]
    limits = [float(row[place - 1] + row[place]) / 2 for row, place in zip(falling, places, strict=True)]
    return [Calibrated(0, images, line=Line(1.0, -limit), threshold=0.5) for limit in limits]


def _rows(file: LabelFile, encoder: TextEncoder, progress: Callable[[int, int], None]) -> Iterator[Tensor]:
    """For each label (descriptions, dimensions): the mean over the templates of each description, of length 1."""
    width, step = len(file.templates), max(1, _AT_ONCE // (8 * len(file.templates)))
    for start in range(0, len(file.labels), step):
        labels = file.labels[start : start + step]
        rows = encoder.encode([sentence for label in labels for sentence in file.sentences(label)])
        means = F.normalize(rows.view(len(rows) // width, width, -1).mean(1), dim=-1)
        yield from torch.split(means, [len(label.sentences) for label in labels])
        progress(min(start + step, len(file.labels)), len(file.labels))


def _means(rows: Sequence[Tensor]) -> Tensor:
    return F.normalize(torch.stack([each.mean(0) for each in rows]), dim=-1)


def uncalibrated(bundle: Bundle, logits: NDArray[np.float32]) -> Floats:
    """The model's own logits (images, labels), without the labels' two numbers."""
    a, b = (bundle.weights()[name].numpy().astype(np.float64) for name in (A, B))
    return (logits[:, : len(a)] - b) / a


def with_calibration(
    bundle: Bundle, out: Path, found: Mapping[int, Calibrated], *, replace_existing: bool = False
) -> Bundle:
    """Write a copy of a dual encoder's bundle with calibrated labels; others keep what they had.

    Raises Misconfigured: `out` exists.
    """
    weights, thresholds = bundle.weights(), list(bundle.thresholds)
    tensors = {name: weights[name].clone() for name in (VECTORS, A, B, BACKGROUND) if name in weights}
    for label, each in found.items():
        if not each.refused:
            tensors[A][label], tensors[B][label] = each.line
            thresholds[label] = each.threshold
    labels = Labels(bundle.labels, tensors, tuple(thresholds), bundle.translations, bundle.parents)
    changed = bundle.manifest.model_copy(update={"floor": min(FLOOR, *thresholds)})
    return with_labels(replace(bundle, manifest=changed), out, labels, replace_existing=replace_existing)
