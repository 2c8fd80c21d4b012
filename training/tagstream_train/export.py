"""Export trained weights, with their card, as a bundle for workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from shutil import copyfile

import torch
from pydantic import Field, JsonValue
from torch import Tensor

from tagstream_train.plan import Exact
from workers import __version__
from workers.models.bundle import ALIGNMENT, Bundle, Golden
from workers.models.load import load_tagger
from workers.models.manifest import Manifest
from workers.models.ram.adapters import golden_of
from workers.models.ram.alignment import AlignmentPart, beside_of
from workers.models.ram.config import PUBLISHED
from workers.models.tagger import TorchTagger, golden_answers


def export(
    folder: Path,
    manifest: Manifest,
    *,
    weights: Mapping[str, Tensor],
    labels: Sequence[str],
    card: Card,
    translations: Mapping[str, Sequence[str]] | None = None,
    parents: Sequence[Sequence[str]] = (),
    beside: Bundle | None = None,
    part: AlignmentPart | None = None,
    vocabulary: bytes | None = None,
    replace_existing: bool = False,
) -> Bundle:
    """Write a bundle with card and golden answers, atomically.

    The worker's own code computes the golden answers from the written files.

    Args:
        beside: a parent bundle: its text tower is copied, and its alignment part if the network is the same.
        manifest: complete except the labels' number, files, digest and card.

    Raises:
        Misconfigured: the folder exists, or the weights do not fit the architecture.
    """
    provenance = manifest.provenance.model_copy(update={"training": card.model_dump(mode="json")})
    return Bundle.write(
        folder,
        manifest.model_copy(update={"provenance": provenance}),
        weights={name: tensor.detach().cpu() for name, tensor in weights.items()},
        labels=labels,
        translations=translations,
        parents=parents,
        vocabulary=vocabulary,
        beside={**_along(beside, weights), **({} if part is None else beside_of(part))},
        golden=_golden,
        replace_existing=replace_existing,
    )


def _along(parent: Bundle | None, weights: Mapping[str, Tensor]) -> Mapping[str, Callable[[Path], object]]:
    names = set() if parent is None else set(parent.manifest.provenance.beside)
    if parent is not None and ALIGNMENT in names:
        own = parent.weights().items()
        same = all(name in weights and torch.equal(weights[name].detach().cpu(), tensor) for name, tensor in own)
        names -= set() if same else {ALIGNMENT}
    return {name: partial(copyfile, parent.beside(name)) for name in names if parent is not None}


def _golden(bundle: Bundle) -> Golden:
    if bundle.manifest.kind in PUBLISHED:
        return golden_of(bundle)
    tagger = load_tagger(bundle.folder, device="cpu", precision="fp32")
    assert isinstance(tagger, TorchTagger)
    return golden_answers(tagger)


class Card(Exact):
    """Says where a bundle comes from: provenance.training of model.json, outside the digest.

    All numbers are of images outside the training set.
    """

    command: str
    """The command: "train fit", …"""
    data: dict[str, JsonValue]
    """The training set: its name, the number of images of each part, the meaning of an absent tag, …"""
    plan: dict[str, JsonValue]
    """`tagstream_train.plan.Plan`, and the run's other options."""
    steps: int
    images: int
    """Images seen in training, each counted as often as it was seen."""
    metrics: dict[str, float | None] = Field(default={})
    """Numbers by name; None: not measurable."""
    thresholds: dict[str, JsonValue] = Field(default={})
    """The rule of the choice, and the labels without a chosen threshold."""
    parents: dict[str, str] = Field(default={})
    """Digests of the parent bundles by name."""
    version: str = __version__
    """The version of tagstream."""


def card_of(bundle: Bundle) -> Card | None:
    """The bundle's card; None if it was not trained here."""
    document = bundle.manifest.provenance.training
    return None if document is None else Card.model_validate(document)
