"""Lists of label names, and other labels for RAM and RAM++.

These models know a label by the text embedding of its name, so a new one needs no training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from workers.errors import Misconfigured, nearest
from workers.models.bundle import Bundle
from workers.models.files import lines_of, reading_safetensors
from workers.models.manifest import Thresholds

if TYPE_CHECKING:
    from torch import Tensor

    from workers.models.ram.config import AnyConfig


THRESHOLD = 0.5
"""The official programs' threshold for labels that the model was not trained with."""

NORM_SLACK = 0.05
"""How far the length of an embedding may lie from 1."""


def read_names(path: Path) -> list[str]:
    """Label names from a text file, one a line; empty lines don't count, blanks at a name's ends belong to it.

    Raises:
        Misconfigured: the file can't be read, or holds no name.
    """
    names = [line for line in lines_of(path) if line.strip()]
    if not names:
        raise Misconfigured(f"{path} holds no name; write one label a line.")
    return names


def label_ids(bundle: Bundle, names: Iterable[str]) -> list[int]:
    """The ids of these labels, ascending; a name that several labels share means all of them.

    Raises:
        Misconfigured: names no label, or one that the bundle does not have.
    """
    wanted = set(names)
    unknown = sorted(wanted.difference(bundle.labels))
    if unknown:
        raise Misconfigured(
            f"{bundle.name} has no label {unknown[0]!r} ({len(unknown)} of {len(wanted)} are unknown)."
            f"{nearest(unknown[0], bundle.labels)}"
        )
    if not wanted:
        raise Misconfigured(f"The list of allowed labels for {bundle.name} is empty.")
    return [number for number, name in enumerate(bundle.labels) if name in wanted]


def narrowed_digest(digest: str, ids: Sequence[int]) -> str:
    """The digest of a model that scores only these labels."""
    named = ",".join(map(str, ids))
    return hashlib.sha256(f"{digest}\n{named}\n".encode()).hexdigest()


def relabel(bundle: Bundle, embeddings: Path, names: Path, out: Path, *, threshold: float = THRESHOLD) -> Bundle:
    """Write a copy of a RAM or RAM++ bundle with other labels.

    Thresholds, profiles and translations of the old labels are left out: they are about those.

    Args:
        embeddings: a safetensors file with one matrix of text embeddings of length 1: for RAM a row for each name;
            for RAM++ the same number of rows (descriptions) for each, name by name.
        names: a text file with the labels' names, one a line.
        threshold: of every label.

    Raises:
        Misconfigured: a bundle of another kind, files that can't be read or do not fit together, a folder that exists.
    """
    labels = read_names(names)
    _require_open(bundle)
    matrix = label_matrix(embeddings)
    return with_matrix(bundle, matrix, labels, out, source=embeddings, thresholds=threshold)


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
    """As `relabel`, with the embeddings themselves.

    Args:
        source: of the labels, for the provenance and complaints.
    """
    from workers.models.device import choose_device
    from workers.models.ram.adapters import golden_of
    from workers.models.ram.config import from_json, to_json

    _require_open(bundle)
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
        golden=lambda made: golden_of(made, choose_device("cpu")),
    )


def _require_open(bundle: Bundle) -> None:
    """
    Raises:
        Misconfigured: the bundle's labels are learnt one by one.
    """
    from workers.models.ram.config import PUBLISHED

    kind = PUBLISHED.get(bundle.manifest.kind)
    if kind is None or not kind.facts.clip:
        raise Misconfigured(
            f"{bundle.folder} is a bundle of the kind {bundle.manifest.kind!r}, whose labels are learnt one by one: "
            f"only {' and '.join(each.facts.name for each in PUBLISHED.values() if each.facts.clip)} take others."
        )


def label_matrix(path: Path) -> Tensor:
    """The only matrix in a safetensors file, checked as a person's own."""
    import torch
    from safetensors.torch import load_file

    with reading_safetensors(path):
        tensors = load_file(path)
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
    from workers.models.ram.config import RamPlusConfig, Tag2TextConfig

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


def label_names() -> list[str]:
    """A thousand names by label id, no two alike.

    `imagenet_labels.txt` has one a line: the first of the label's WordNet words ("hog" of "hog, pig, grunter,
    squealer"), or another where that one reads badly or two labels have it ("crane (bird)", "crane (machine)").
    """
    return Path(__file__).with_name("imagenet_labels.txt").read_text(encoding="utf-8").splitlines()


def label_parents() -> list[list[str]]:
    """Wider names of `label_names`, nearest first: of those that WordNet has above a label 156 were kept.

    The two nearest and the widest of them; 175 labels have none.
    """
    text = Path(__file__).with_name("imagenet_parents.txt").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if not line.startswith("#")]
    return [row.split(", ") if row else [] for row in rows]
