"""Bundles of dual encoders behind the port `Tagger`: scores of labels by their vectors, and the image's own vector.

A bundle's weights are the image tower's parameters under `image.`. A bundle with labels has these tensors too:

    labels.vectors      (labels, dimensions) fp32, of length 1: the text tower's vector of each label
    labels.a, labels.b  (labels,) fp32: score = sigmoid(a · z + b); 1 and 0 before calibration
    labels.background   (k, dimensions) fp32, of length 1; CLIP alone: sentences that are true of every image

with z = exp(scale) · cosine + bias for SigLIP. CLIP was trained to tell sentences apart and has no such threshold, so
that z compares a label with the background: z = exp(scale) · cosine − log mean exp(exp(scale) · background cosines).
No label's score depends on another label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.errors import Misconfigured
from workers.models.added import Columns, columns_of, parted
from workers.models.bundle import Bundle
from workers.models.cpu_layers import leave_file, pack
from workers.models.device import Device, Precision
from workers.models.dual.config import DualConfig, from_json, vectors_digest
from workers.models.dual.towers import ImageTower, filled
from workers.models.tagger import PIECE, SeenRows, TorchTagger
from workers.types import LabelScores, Pixels

IMAGE = "image."
VECTORS, A, B, BACKGROUND = "labels.vectors", "labels.a", "labels.b", "labels.background"
NORM_SLACK = 1e-3
"""How far the length of a vector may lie from 1."""


class Scorer:
    """Logits of labels from vectors of images, in fp32."""

    def __init__(self, config: DualConfig, labels: Mapping[str, Tensor], device: Device) -> None:
        self._factor = math.exp(config.scale)
        self._bias = config.bias
        tensors = {name: tensor.to(device.where, torch.float32) for name, tensor in labels.items()}
        self._vectors, self._a, self._b = tensors[VECTORS], tensors[A], tensors[B]
        self._background = tensors.get(BACKGROUND)

    def __call__(self, images: Tensor) -> Tensor:
        """(n, dimensions) to (n, labels)."""
        z = self._factor * (images @ self._vectors.T) + self._bias
        if self._background is not None:
            against = self._factor * (images @ self._background.T)
            z = z - (against.logsumexp(1, keepdim=True) - math.log(len(self._background)))
        return self._a * z + self._b


class DualTagger(TorchTagger):
    """A tagger that gives embeddings too (an `Embedder`).

    A raw answer is a row of logits with the image's vector behind them.
    Vectors of the last images are kept, so that `embed` after `forward` of the same arrays costs nothing.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device,
        precision: Precision,
        tower: ImageTower,
        labels: Mapping[str, Tensor],
        added: nn.Linear | None,
        columns: Columns,
        subset: Sequence[int] | None,
    ) -> None:
        super().__init__(bundle, device, precision, tower, columns=columns, subset=subset)
        config = from_json(bundle.manifest.kind, bundle.manifest.architecture)
        self.embedding_space = config.space
        self.embedding_dimensions = config.dimensions
        self.embedding_model = vectors_digest(bundle.manifest) or bundle.digest
        if subset is not None:
            labels = {name: each if name == BACKGROUND else each[columns.own_ids] for name, each in labels.items()}
        self._score = Scorer(config, labels, device)
        self._added = None if added is None else added.to(device.where)
        vector = columns.own + len(columns.added) + np.arange(config.dimensions, dtype=np.int32)
        self._logits_given = len(self._columns)
        self._columns = np.concatenate((self._columns, vector))
        self._seen = SeenRows[NDArray[np.float32]]()

    def forward(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        """For each image its logits and its vector, in one row."""
        if not images:
            return []
        with self._device.run():
            vectors = torch.cat([self._logits(piece) for piece in self._device.stream(images, PIECE)])
            added = () if self._added is None else (self._added(vectors),)
            rows = torch.cat((self._score(vectors), *added, vectors), dim=1).cpu().numpy()
        self._seen.keep(images, rows)
        return list(rows)

    def embed(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        """One vector an image, of length 1."""
        return [row[-self.embedding_dimensions :] for row in self._seen.rows(images, self.forward)]

    def features(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        return self.embed(images)

    def postprocess(self, raw: NDArray[np.float32]) -> LabelScores:
        if not np.isfinite(raw).all():
            raise ValueError(f"{self.name}: not a number in the vector of an image")
        return super().postprocess(raw[: self._logits_given])


def build_tagger(
    bundle: Bundle, device: Device, precision: Precision, subset: Sequence[int] | None = None
) -> DualTagger:
    """The tagger of such a bundle; without labels it gives vectors only.

    Raises Misconfigured: the weights or the labels' tensors do not fit, or int8.
    """
    if precision == "int8":
        raise Misconfigured(
            f"{bundle.name} makes vectors, which int8 would move away from those of other workers; "
            "choose another precision."
        )
    config = from_json(bundle.manifest.kind, bundle.manifest.architecture)
    if bundle.transform.size != config.side:
        raise Misconfigured(
            f"{bundle.folder}: the transform makes images of {bundle.transform.size} pixels, and the tower takes "
            f"{config.side}."
        )
    columns = columns_of(bundle, subset=subset)
    weights, added = parted(bundle.weights(), columns)
    labels = _checked_labels(bundle, config, weights, columns.own)
    mapped = {name.removeprefix(IMAGE): each for name, each in weights.items() if name.startswith(IMAGE)}
    tower = device.place(filled(ImageTower, config, mapped, bundle.folder), precision)
    if device.fuses(precision):
        with torch.inference_mode():
            pack(tower, rows=PIECE * config.patches)
        leave_file(tower, bundle, weights)
    return DualTagger(bundle, device, precision, tower, labels, added, columns, subset)


def _checked_labels(bundle: Bundle, config: DualConfig, weights: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    none = {VECTORS: torch.empty(0, config.dimensions), A: torch.empty(0), B: torch.empty(0)}
    found = {name: weights[name] for name in (VECTORS, A, B, BACKGROUND) if name in weights} or none
    wanted = {VECTORS: (count, config.dimensions), A: (count,), B: (count,)}
    if config.kind == "clip" and count:
        wanted[BACKGROUND] = (len(found.get(BACKGROUND, ())), config.dimensions)
    for name, shape in wanted.items():
        tensor = found.get(name)
        if tensor is None or tuple(tensor.shape) != shape or tensor.dtype != torch.float32 or shape[0] < min(count, 1):
            has = "is missing" if tensor is None else f"is {tensor.dtype} of the shape {tuple(tensor.shape)}"
            raise Misconfigured(
                f"{bundle.folder}: {name} {has}, and should be fp32 of the shape {shape}; "
                "make the labels again with `tagstream models labels`."
            )
        if name in (VECTORS, BACKGROUND) and not bool(((tensor.norm(dim=1) - 1).abs() <= NORM_SLACK).all()):
            raise Misconfigured(f"{bundle.folder}: {name} has a row whose length is not 1.")
    if extra := found.keys() - wanted.keys():
        raise Misconfigured(f"{bundle.folder}: {min(extra)} does not belong into a bundle of {config.kind}.")
    return found
