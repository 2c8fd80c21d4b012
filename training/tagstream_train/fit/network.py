"""Trainable networks of bundles, with classifiers of a set's labels.

The set's labels are linear classifiers on the network's features. They are added to the network's own
(`workers/models/added.py`), or replace them. They are fitted before the encoder learns:

lora   the encoder learns by LoRA, which is merged at the end; the network's own labels do not change
all    everything learns except text embeddings of labels and a linear classifier of the network's own labels
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from tagstream_train.fit.linear import Linear
from tagstream_train.fit.timm_bundle import classifier_name
from workers.errors import Misconfigured
from workers.models import compact, timm_network
from workers.models.added import BIAS, WEIGHT, Columns, columns_of, parted, pooled, rooted
from workers.models.bundle import Bundle
from workers.models.cpu_layers import replace_layers
from workers.models.ram.config import from_json
from workers.models.ram.networks import filled_model


class LoraLinear(nn.Module):
    """A frozen linear layer plus `up` times `down`, zero at first.

    LoRA (Hu et al., 2021) trains a large encoder with little memory, and merges into ordinary weights. The package
    peft has it too, but depends on 67 MB of transformers.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + F.linear(F.linear(x, self.down), self.up)

    def merged(self) -> nn.Linear:
        """Merge into the base layer, and return it."""
        with torch.no_grad():
            self.base.weight += self.up @ self.down
        return self.base


def add_lora(module: nn.Module, rank: int, *, keep: nn.Module | None = None) -> None:
    """Freeze a module, and give its linear layers LoRA, in place."""
    module.requires_grad_(False)

    def learning(_: str, layer: nn.Module) -> nn.Module | None:
        if layer is keep:
            return layer
        return LoraLinear(layer, rank) if type(layer) is nn.Linear else None

    replace_layers(module, learning)


def merge_lora(module: nn.Module) -> None:
    """Merge LoRA back into plain linear layers, in place."""
    replace_layers(module, lambda _, layer: layer.merged() if isinstance(layer, LoraLinear) else None)


What: TypeAlias = Literal["lora", "all"]


@dataclass(frozen=True)
class Network:
    """A bundle's network with classifiers of a set's labels.

    Args:
        columns: the source of each label's logit.
    """

    labels: Sequence[str]
    weights: Mapping[str, Tensor]
    options: Mapping[str, JsonValue]
    columns: Columns


def taught(
    bundle: Bundle, labels: Sequence[str], ids: Sequence[int], linear: Linear, *, alone: bool = False
) -> Network:
    """A bundle's network with these classifiers in place of earlier ones.

    Args:
        ids: of the classifiers' labels, ascending.
        alone: whether they replace the network's own classifier too.

    Raises:
        Misconfigured: the network has no linear classifier to replace.
    """
    weights, options, before = bundle.weights(), dict(bundle.manifest.options), columns_of(bundle)
    weight, bias = linear.weight, linear.bias
    if alone:
        kind, own = bundle.manifest.kind, parted(weights, before)[0]
        if kind not in (timm_network.KIND, compact.KIND):
            raise Misconfigured(f"{bundle.name} has no classifier of its own to replace: leave --drop-labels out.")
        name = classifier_name(bundle) if kind == timm_network.KIND else "classifier"
        options = {key: each for key, each in options.items() if key not in ("added", "own", "rooted", "own_rooted")}
        options |= {"exclusive": False} | ({"own_rooted": True} if linear.rooted else {})
        classifier = {f"{name}.weight": weight, f"{name}.bias": bias}
        columns = Columns(len(ids), (), tuple(ids), False, own_rooted=linear.rooted)
        return Network(labels, own | classifier, options, columns)
    rows = {label: (weights[WEIGHT][row], weights[BIAS][row]) for row, label in enumerate(before.added)}
    rows |= {label: (weight[row], bias[row]) for row, label in enumerate(ids)}
    added = tuple(sorted(rows))
    weights[WEIGHT], weights[BIAS] = (torch.stack([rows[label][part] for label in added]) for part in (0, 1))
    roots = before.rooted.difference(ids).union(ids if linear.rooted else ())
    options |= {"added": list[JsonValue](added), "own": before.own, "rooted": list[JsonValue](sorted(roots))}
    if not roots:
        del options["rooted"]  # as earlier versions wrote it
    columns = replace(before, added=added, labels=tuple(range(len(labels))), exclusive=False, rooted=roots)
    return Network(labels, weights, options, columns)


class Learner(nn.Module):
    """A bundle's network for further training, with classifiers of a set's labels.

    With added labels, the network's own linear classifier is frozen: only the encoder can change its scores.
    """

    def __init__(self, bundle: Bundle, network: Network, what: What, *, rank: int = 8) -> None:
        """
        Args:
            network: of the bundle, with fitted classifiers.
            rank: of LoRA.

        Raises:
            Misconfigured: this kind of network can't be trained this way.
        """
        super().__init__()
        self._kind = kind = bundle.manifest.kind
        self._ram = kind in ("ram", "ram_plus")
        exclusive = not self._ram and bool(network.options.get("exclusive", True))
        self._columns = replace(network.columns, exclusive=exclusive)
        own, self.added = parted({name: each.float() for name, each in network.weights.items()}, self._columns)
        self.network: Any = _network(bundle, own, self._columns.own, what)
        kept = (self.network.label_embed, getattr(self.network, "text", None)) if self._ram else (self._classifier,)
        self.network.requires_grad_(what == "all")
        if what == "lora":
            add_lora(self.network.encoder if self._ram else self.network, rank, keep=kept[0])
            if not any(isinstance(module, LoraLinear) for module in self.network.modules()):
                raise Misconfigured(f"LoRA needs linear layers, and {bundle.name} has none: choose head or all.")
        for part in kept:
            if part is not None:
                part.requires_grad_(False)
        (self._classifier if self.added is None else self.added).requires_grad_(True)

    @property
    def _classifier(self) -> Any:
        return self.network.classifier if self._kind == compact.KIND else self.network.get_classifier()

    def encode(self, images: Tensor) -> Tensor:
        """Features of normalised images: (n, 3, side, side) to (n, …)."""
        if self._kind == timm_network.KIND:
            return timm_network.features_of(self.network, images)
        features: Tensor = self.network.embed(self.network.encode(images)) if self._ram else self.network.pooled(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """(n, labels) logits."""
        return self.score(self.encode(images))

    def score(self, features: Tensor, ids: Tensor | None = None) -> Tensor:
        """(n, labels) logits in fp32, of all labels or of `ids` (ascending).

        Their sigmoids are a worker's scores, of exclusive labels too.
        """
        columns = self._columns if ids is None else replace(self._columns, labels=tuple(ids.tolist()))
        parts = [self._own(features, columns.own_ids)] if columns.own_ids else []
        if self.added is not None:
            added = self.added(pooled(features) if self._ram else features).float()
            parts.append(added[:, columns.added_rows])
        return torch.cat(parts, dim=1)[:, columns.of_labels]

    def _own(self, features: Tensor, ids: list[int]) -> Tensor:
        """Logits of these own labels."""
        if self._ram:
            some = None if len(ids) == self._columns.own else torch.tensor(ids, device=features.device)
            decoded: Tensor = self.network.score(features, some)
            return decoded
        logits: Tensor = self._classifier(rooted(features) if self._columns.own_rooted else features).float()
        if not self._columns.exclusive:
            return logits[:, ids]
        shares = logits.log_softmax(1)
        return shares - torch.log1p(-shares.exp().clamp(max=1 - 1e-6))

    def weights(self) -> dict[str, Tensor]:
        """Weights for a bundle; ends the training by merging LoRA."""
        merge_lora(self.network)
        own = compact.unfolded(self.network) if self._kind == compact.KIND else self.network.state_dict()
        added = {} if self.added is None else {WEIGHT: self.added.weight, BIAS: self.added.bias}
        return {name: tensor.detach() for name, tensor in (*own.items(), *added.items())}


def _network(bundle: Bundle, weights: Mapping[str, Tensor], labels: int, what: What) -> Any:
    """A bundle's network, with a classifier of its own labels."""
    kind = bundle.manifest.kind
    if kind in ("ram", "ram_plus"):
        return filled_model(from_json(kind, bundle.manifest.architecture), weights)
    if kind == compact.KIND:
        return compact.EfficientNetLite0(weights, labels)
    if kind == timm_network.KIND:
        return timm_network.network_of(bundle, weights, labels)
    raise Misconfigured(
        f"{bundle.folder} has a model of kind {kind!r}; {what} takes RAM, RAM++, the compact tagger and networks of "
        "timm. --what head takes all that give features."
    )
