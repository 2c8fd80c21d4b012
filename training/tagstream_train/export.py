"""Export trained weights as a bundle for workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from tagstream_train.card import Card
from workers.models.bundle import Bundle, Golden
from workers.models.device import choose_device
from workers.models.load import load_tagger
from workers.models.manifest import Manifest
from workers.models.ram.adapters import golden_of
from workers.models.tagger import TorchTagger, golden_answers

_RAM_FAMILY = ("ram", "ram_plus", "tag2text")


def export(
    folder: Path,
    manifest: Manifest,
    *,
    weights: Mapping[str, Tensor],
    labels: Sequence[str],
    card: Card,
    translations: Mapping[str, Sequence[str]] | None = None,
    vocabulary: bytes | None = None,
    replace_existing: bool = False,
) -> Bundle:
    """Write a bundle with card and golden answers, atomically.

    The golden answers are those of the worker's own code, loaded from what was written.

    Args:
        manifest: with everything but the labels' number, files, digest and card, which are filled in here.

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
        vocabulary=vocabulary,
        golden=_golden,
        replace_existing=replace_existing,
    )


def _golden(bundle: Bundle) -> Golden:
    if bundle.manifest.kind in _RAM_FAMILY:
        return golden_of(bundle, choose_device("cpu"))
    tagger = load_tagger(bundle.folder, device="cpu", precision="fp32")
    assert isinstance(tagger, TorchTagger)
    return golden_answers(tagger)
