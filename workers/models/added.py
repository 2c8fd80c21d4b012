"""Added labels of a network: a linear layer on its features, with a sigmoid for each label.

`tagstream train fit` adds them to a bundle. The network's own layers stay as they are to the bit, so an old label's
score does too, unless the fit was about this very label: then the added layer's answer takes its place.

    added.weight   (added, width)     added.bias   (added,)
    options.added  ids of their labels, ascending; new labels come after the network's labels
    options.own    how many labels the network has
    options.rooted ids of added labels that read `rooted` features; the others read features as they are
    options.own_rooted  whether the network's own linear classifier does
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.errors import Misconfigured
from workers.models.bundle import Bundle

WEIGHT, BIAS = "added.weight", "added.bias"
_LEAST = 1e-6
"""Keeps the root's slope finite at 0, where an encoder learns through it."""


def rooted(features: Tensor) -> Tensor:
    """Signed square roots of features, at length 1: (n, width).

    A few large features no longer decide alone, nor does the length (Perronnin et al., 2010: power normalisation, L2).
    """
    exact = features.float()
    return F.normalize(exact * (exact.abs() + _LEAST).rsqrt(), dim=-1).to(features.dtype)


@dataclass(frozen=True)
class Columns:
    """Columns of a network's output: logits of its labels, then of added ones.

    Args:
        own: number of the network's labels: ids 0 to own - 1.
        added: ids of the added layer's labels, ascending.
        labels: ids to score, ascending.
        exclusive: whether own labels exclude each other, so that all of their logits are needed.
        rooted: ids of added labels that read `rooted` features.
        own_rooted: whether the network's own classifier does.
    """

    own: int
    added: tuple[int, ...]
    labels: tuple[int, ...]
    exclusive: bool
    rooted: frozenset[int] = frozenset()
    own_rooted: bool = False

    @property
    def own_ids(self) -> list[int]:
        """Of the network's own columns."""
        return list(range(self.own)) if self.exclusive else [label for label in self.labels if label < self.own]

    @property
    def added_rows(self) -> list[int]:
        """Rows of the added layer."""
        wanted = set(self.labels)
        return [row for row, label in enumerate(self.added) if label in wanted]

    @property
    def of_all(self) -> list[int]:
        """Each given column's place among those of all labels."""
        return self.own_ids + [self.own + row for row in self.added_rows]

    @property
    def of_labels(self) -> list[int]:
        """For each label scored, its column: an added one, if there is one."""
        own = {label: column for column, label in enumerate(self.own_ids)}
        added = {self.added[row]: len(own) + number for number, row in enumerate(self.added_rows)}
        return [added[label] if label in added else own[label] for label in self.labels]


def columns_of(bundle: Bundle, *, exclusive: bool = False, subset: Sequence[int] | None = None) -> Columns:
    """The columns of a bundle's network. Raises Misconfigured: its options `added`, `own` and `rooted` can't be."""
    options, total = bundle.manifest.options, bundle.manifest.labels
    added, own, roots = options.get("added", []), options.get("own", total), options.get("rooted", [])
    ids = [each for each in added if isinstance(each, int) and 0 <= each < total] if isinstance(added, list) else []
    if not isinstance(own, int) or ids != added or not set(range(own, total)) <= set(ids) or ids != sorted(set(ids)):
        raise Misconfigured(f"{bundle.folder}: its options `added` and `own` don't fit its {total:,} labels.")
    few = [each for each in roots if isinstance(each, int) and each in ids] if isinstance(roots, list) else []
    if few != roots or len(set(few)) < len(few):
        raise Misconfigured(f"{bundle.folder}: its option `rooted` names labels that are not among the added ones.")
    kept = tuple(range(total) if subset is None else subset)
    return Columns(own, tuple(ids), kept, exclusive, frozenset(few), options.get("own_rooted") is True)


def keep_labels(classifier: Any, ids: Sequence[int]) -> None:
    """Compute the logits of these labels alone from now on. Raises Misconfigured: the classifier is not linear."""
    if type(classifier) is not nn.Linear:
        raise Misconfigured("this network's classifier is not linear: it can't score some labels alone.")
    classifier.weight, classifier.bias = nn.Parameter(classifier.weight[ids]), nn.Parameter(classifier.bias[ids])
    classifier.out_features = len(ids)


class AddedLayer(nn.Linear):
    """Logits of added labels; rows of `rooted` labels read rooted features."""

    def __init__(self, weight: Tensor, bias: Tensor, roots: Sequence[bool]) -> None:
        super().__init__(weight.shape[1], len(weight), device="meta")
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self._all, self._any = all(roots), any(roots)
        self._roots: Tensor
        self.register_buffer("_roots", torch.tensor(roots), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        if self._all:
            return super().forward(rooted(features))
        logits = super().forward(features)
        return torch.where(self._roots, super().forward(rooted(features)), logits) if self._any else logits


def parted(weights: Mapping[str, Tensor], columns: Columns) -> tuple[dict[str, Tensor], nn.Linear | None]:
    """A network's own weights, and its layer of wanted added labels.

    Raises Misconfigured: the layer is missing, or not of these labels.
    """
    own = {name: tensor for name, tensor in weights.items() if name not in (WEIGHT, BIAS)}
    if not columns.added:
        return own, None
    weight, bias = weights.get(WEIGHT), weights.get(BIAS)
    if weight is None or bias is None or weight.dim() != 2 or not len(weight) == len(bias) == len(columns.added):
        raise Misconfigured(f"these weights have no {WEIGHT} and {BIAS} for {len(columns.added):,} added labels.")
    rows = columns.added_rows
    roots = [columns.added[row] in columns.rooted for row in rows]
    return own, AddedLayer(weight[rows], bias[rows], roots).requires_grad_(False)


def pooled(embeds: Tensor) -> Tensor:
    """An image's features of its tokens: (images, 1 + tokens, width) to (images, 2 * width).

    The first token is the mean of the others; the maximum of each feature keeps small objects.
    """
    return torch.cat((embeds[:, 0], embeds[:, 1:].amax(dim=1)), dim=1)


class AddedLabels(nn.Module):
    """Puts added labels' logits among a network's own, by id."""

    def __init__(self, columns: Columns, layer: nn.Linear) -> None:
        super().__init__()
        self._columns = columns
        self._layer = layer
        self._order: Tensor
        self.register_buffer("_order", torch.tensor(columns.of_labels), persistent=False)

    def among(self, own: Callable[[Tensor, Tensor | None], Tensor], embeds: Tensor, subset: Tensor | None) -> Tensor:
        """Logits of `subset`, or of all labels.

        Args:
            own: the network's function of `embeds` and of own label ids, or None for all.
            embeds: as `pooled` takes them.
            subset: (n,) int64.
        """
        added = self._layer(pooled(embeds)).float()
        if subset is None:
            return torch.cat((own(embeds, None), added), dim=1)[:, self._order]
        columns = replace(self._columns, labels=tuple(subset.tolist()))
        parts = [added[:, columns.added_rows]]
        if columns.own_ids:
            parts.insert(0, own(embeds, torch.tensor(columns.own_ids, device=embeds.device)))
        return torch.cat(parts, dim=1)[:, columns.of_labels]
