"""Other labels for RAM and RAM++.

These models know a label by the text embedding of its name, so a new one needs no training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from workers.errors import Misconfigured
from workers.models.bundle import Bundle, read_tensors
from workers.models.manifest import Thresholds
from workers.models.ram.adapters import golden_of
from workers.models.ram.config import PUBLISHED, AnyConfig, RamPlusConfig, Tag2TextConfig, from_json, to_json

THRESHOLD = 0.5
"""The official programs' threshold for labels that the model was not trained with."""

NORM_SLACK = 0.05
"""How far the length of an embedding may lie from 1."""


def with_matrix(
    bundle: Bundle,
    matrix: Tensor,
    labels: Sequence[str],
    out: Path,
    *,
    source: Path,
    thresholds: Thresholds = THRESHOLD,
    translations: Mapping[str, Sequence[str]] | None = None,
    parents: Sequence[Sequence[str]] = (),
) -> Bundle:
    """Write a copy of a RAM or RAM++ bundle with other labels.

    Profiles and translations of the old labels are left out: they are about those.

    Args:
        matrix: text embeddings of length 1: for RAM a row for each label; for RAM++ the same number of rows
            (descriptions) for each, label by label.

    Raises:
        Misconfigured: a bundle of another kind, a matrix that does not fit it or the labels, a folder that exists.
    """
    known = PUBLISHED.get(bundle.manifest.kind)
    if known is None or not known.facts.clip:
        raise Misconfigured(
            f"{bundle.folder} is a bundle of the kind {bundle.manifest.kind!r}, whose labels are learnt one by one: "
            f"only {' and '.join(each.facts.name for each in PUBLISHED.values() if each.facts.clip)} take others."
        )
    config = with_embedding(from_json(bundle.manifest.kind, bundle.manifest.architecture), matrix, len(labels), source)
    weights = bundle.weights()
    weights["label_embed"] = matrix.to(weights["label_embed"].dtype)
    provenance = bundle.manifest.provenance
    told = f"{provenance.source}, labels of {source.name}"
    manifest = bundle.manifest.model_copy(
        update={
            "provenance": provenance.model_copy(update={"source": told}),
            "architecture": to_json(config),
            "thresholds": thresholds,
            "profiles": {},
        }
    )
    return Bundle.write(
        out,
        manifest,
        weights=weights,
        labels=labels,
        translations=translations,
        parents=parents,
        golden=golden_of,
    )


def label_matrix(path: Path) -> Tensor:
    """The only matrix in a safetensors file, checked as a person's own."""
    tensors = read_tensors(path)
    if len(tensors) != 1:
        raise Misconfigured(f"{path} has {len(tensors)} tensors ({', '.join(sorted(tensors)[:3])}); it must have one.")
    (matrix,) = tensors.values()
    if matrix.dim() != 2 or not matrix.is_floating_point():
        raise Misconfigured(f"{path} holds {matrix.dtype} of shape {tuple(matrix.shape)}; it must hold rows of floats.")
    lengths = torch.linalg.vector_norm(matrix.float(), dim=1)
    if not bool(((lengths - 1).abs() <= NORM_SLACK).all()):  # written so that a NaN fails
        raise Misconfigured(
            f"{path}: its rows have lengths from {lengths.min():.3g} to {lengths.max():.3g}; "
            "divide each by its length, as the embeddings that the model was trained with were."
        )
    return matrix


def with_embedding(config: AnyConfig, matrix: Tensor, labels: int, path: Path) -> AnyConfig:
    """The sizes of a model with this label embedding."""
    assert not isinstance(config, Tag2TextConfig)
    rows, width = matrix.shape
    if width != config.embedding:
        raise Misconfigured(f"{path} has rows of {width} numbers where this model reads {config.embedding}.")
    if isinstance(config, RamPlusConfig):
        if rows % labels:
            raise Misconfigured(
                f"{path} has {rows:,} rows for {labels:,} names; RAM++ wants equally many descriptions of each."
            )
        return replace(config, labels=labels, descriptions=rows // labels)
    if rows != labels:
        raise Misconfigured(f"{path} has {rows:,} rows for {labels:,} names; RAM wants one for each.")
    return replace(config, labels=labels)
