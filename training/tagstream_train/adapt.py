"""Trainable networks around the tagger of a bundle, and layers for training.

lora   the head learns, and the encoder by LoRA, merged into it at the end
all    everything learns, but text embeddings of labels stay

The models are written for inference and have neither dropout nor stochastic depth. Both act on what a projection gives
before it is added to the residual, so that hooks on these projections are exactly what the original programs do.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self, TypeAlias

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from tagstream_train.data.samples import places
from workers.errors import Misconfigured
from workers.models import timm_network
from workers.models.added import BIAS, WEIGHT, Columns, columns_of, parted
from workers.models.bundle import Bundle
from workers.models.compact import KIND as COMPACT
from workers.models.compact import EfficientNetLite0, unfolded
from workers.models.cpu_layers import replace_layers
from workers.models.ram.config import RamPlusConfig, from_json, to_json
from workers.models.ram.layers import CrossLayer, SelfAttention, label_chunks
from workers.models.ram.networks import LabelScorer, Ram, RamPlus, filled_model
from workers.models.ram.swin import Block
from workers.models.ram.text import Embeddings


def add_noise(model: LabelScorer, *, depth: float = 0.1, dropout: float = 0.1) -> None:
    """Add dropout and stochastic depth, active in training mode only.

    Args:
        depth: probability that an image skips a residual branch of the encoder's last block; it rises linearly from
            0 at the first block.
        dropout: probability that a channel of a layer of the tag head or of the text side is dropped, behind its
            projections and embeddings, and an attention weight.
    """
    blocks = [module for module in model.encoder.modules() if isinstance(module, Block)]
    for block, rate in zip(blocks, torch.linspace(0, depth, len(blocks)).tolist(), strict=True):
        for branch in (block.attention.out, block.down):
            branch.register_forward_hook(_Skips(rate))
    add_dropout(model, dropout)


def add_dropout(model: nn.Module, dropout: float) -> None:
    """The dropout of `add_noise`, in layers of any module."""
    for module in model.modules():
        if isinstance(module, CrossLayer | SelfAttention):
            module.attention_dropout = dropout
        for dropped in _before_residuals(module):
            dropped.register_forward_hook(_Drops(dropout))


def _before_residuals(module: nn.Module) -> tuple[nn.Module, ...]:
    if isinstance(module, CrossLayer):
        return module.out, module.down
    if isinstance(module, SelfAttention):
        return (module.out,)
    return (module.norm,) if isinstance(module, Embeddings) else ()


class _Skips:
    """Skips a branch for some images, keeping its mean."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, module: nn.Module, _: object, branch: Tensor) -> Tensor | None:
        if not module.training or self.rate == 0:
            return None
        kept = branch.new_empty(len(branch), *[1] * (branch.dim() - 1)).bernoulli_(1 - self.rate)
        return branch * kept / (1 - self.rate)


class _Drops:
    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, module: nn.Module, _: object, out: Tensor) -> Tensor | None:
        return F.dropout(out, self.rate) if module.training else None


class LoraLinear(nn.Module):
    """A frozen linear layer plus `up` times `down`, zero at first.

    LoRA (Hu et al., 2021): an encoder trains in the memory of a small one, and merged its bundle is like any other.
    peft does the same, but brings 67 MB of transformers along.
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

MOSTLY_ABSENT = -2.0
"""A logit to begin with: most tags are absent from most images."""


class Learner(nn.Module):
    """A network that is trained further.

    Args:
        labels: all that it knows, those of the bundle first.
        kept: how many labels of the bundle these are.
        what: see the module.
    """

    def __init__(self, labels: Sequence[str], kept: int, what: What) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.kept = kept
        self.what: What = what

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Features of normalised images: (n, 3, side, side) to (n, …)."""

    def forward(self, images: Tensor) -> Tensor:
        """(n, labels) logits."""
        return self.score(self.encode(images))

    def teacher(self) -> Self:
        """A copy that does not learn."""
        return copy.deepcopy(self).requires_grad_(False).eval()

    @abstractmethod
    def score(self, features: Tensor, ids: Tensor | None = None) -> Tensor:
        """(n, labels) logits in fp32, or those of the labels `ids`, ascending."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Weights for a bundle; ends the training by merging LoRA."""

    def architecture(self) -> dict[str, JsonValue] | None:
        """And the manifest's `architecture`; None: it stays."""
        return None

    def options(self) -> dict[str, JsonValue]:
        """Options that the manifest gets besides the bundle's own."""
        return {}


class RamLearner(Learner):
    """RAM or RAM++ with new labels.

    The image's projection towards CLIP stays unless everything learns: embeddings are made with it.
    """

    def __init__(self, bundle: Bundle, new: Sequence[str], what: What, rank: int, embeddings: Mapping[str, Tensor]):
        super().__init__((*bundle.labels, *new), bundle.manifest.labels, what)
        config = from_json(bundle.manifest.kind, bundle.manifest.architecture)
        model = filled_model(config, {name: tensor.float() for name, tensor in bundle.weights().items()})
        assert isinstance(model, Ram | RamPlus)
        self._config = config
        self.scorer = model
        self.new_rows = nn.ParameterList([self._row(name, embeddings.get(name)) for name in new])
        self._choose(rank)

    def _choose(self, rank: int) -> None:
        """Let learn what is to learn besides new labels, and nothing else."""
        for module in (self.scorer.label_proj, self.scorer.head):
            module.requires_grad_(True)
        for parameter in (self.scorer.class_weight, self.scorer.class_bias):
            parameter.requires_grad_(True)
        if self.what == "lora":
            add_lora(self.scorer.encoder, rank)
        if self.what == "all":
            self.scorer.requires_grad_(True)
            self.scorer.label_embed.requires_grad_(False)
            if getattr(self.scorer, "text", None) is not None:
                self.scorer.text.requires_grad_(False)  # type: ignore[union-attr]  # a module, by the line above

    @property
    def _descriptions(self) -> int:
        return self._config.descriptions if isinstance(self._config, RamPlusConfig) else 1

    def _row(self, name: str, given: Tensor | None) -> nn.Parameter:
        """Return (descriptions, embedding) of one label."""
        if given is not None:
            return nn.Parameter(given.float().view(self._descriptions, -1), requires_grad=False)
        chance = torch.Generator().manual_seed(int.from_bytes(name.encode()[:7], "big"))
        width = self.scorer.label_embed.shape[1]
        rows = torch.randn(1, width, generator=chance) + 0.1 * torch.randn(self._descriptions, width, generator=chance)
        return nn.Parameter(nn.functional.normalize(rows, dim=-1))

    def encode(self, images: Tensor) -> Tensor:
        return self.scorer.embed(self.scorer.encode(images))

    def score(self, features: Tensor, ids: Tensor | None = None) -> Tensor:
        if ids is None:
            old, new = None, range(len(self.new_rows))
        else:
            old = ids[ids < self.kept]
            new = [int(i) - self.kept for i in ids[ids >= self.kept]]  # type: ignore[assignment]  # a sequence too
        parts = [self.scorer.score(features, old)] if old is None or len(old) else []
        return torch.cat([*parts, *self._score_new(features, new)], dim=1)

    def _score_new(self, features: Tensor, rows: Sequence[int]) -> list[Tensor]:
        if not rows:
            return []
        embeds = torch.stack([self.new_rows[row] for row in rows])
        memory = self.scorer.head.remember(features, len(rows), False)
        parts = []
        for chunk in label_chunks(len(rows), len(features), self.scorer.rows_at_once):
            hidden = self.scorer.head(self._queries(features, embeds[chunk]), memory)
            parts.append(self.scorer.classify(hidden, chunk).float())
        return parts

    def _queries(self, features: Tensor, embeds: Tensor) -> Tensor:
        if isinstance(self.scorer, RamPlus):
            return self.scorer.queries_of(features, embeds)
        queries: Tensor = self.scorer.label_proj(embeds[:, 0]).relu()
        return queries

    def weights(self) -> dict[str, Tensor]:
        merge_lora(self.scorer.encoder)
        weights = {name: tensor.detach() for name, tensor in self.scorer.state_dict().items()}
        weights["label_embed"] = torch.cat([weights["label_embed"], *(row.detach() for row in self.new_rows)])
        return weights

    def architecture(self) -> dict[str, JsonValue]:
        return to_json(replace(self._config, labels=len(self.labels)))


class LinearLearner(Learner):
    """A network that keeps its labels, with the set's beside them.

    The bundle's own classifier does not learn, so that only the encoder can change what it says.

    Args:
        drop_labels: whether the set's labels take the place of the bundle's.
    """

    def __init__(self, bundle: Bundle, labels: Sequence[str], what: What, drop_labels: bool) -> None:
        before = columns_of(bundle)
        own, layer = parted(bundle.weights(), before)
        old = () if drop_labels else bundle.labels
        names = (*old, *(name for name in labels if name not in set(old)))
        super().__init__(names, len(old), what)
        self.network = self._made(bundle, own, before.own)
        if not isinstance(self._classifier, nn.Linear):
            raise Misconfigured(f"{bundle.name} has no linear classifier; choose another network.")
        taught, exclusive = places(names), bool(bundle.manifest.options.get("exclusive", True))
        added = tuple(sorted({*(before.added if old else ()), *(taught[name] for name in labels)}))
        self._columns = Columns(
            before.own if old else 0, added, tuple(range(len(names))), exclusive and not drop_labels
        )
        self.register_buffer("_order", torch.tensor(self._columns.of_labels), persistent=False)
        self.added = nn.Linear(self._classifier.in_features, len(added))
        nn.init.zeros_(self.added.weight)
        nn.init.constant_(self.added.bias, MOSTLY_ABSENT)
        for row, label in enumerate(added):
            rows = before.added if label in before.added else range(0 if exclusive else before.own)
            known: Any = layer if label in before.added else self._classifier
            if label < len(old) and label in rows:
                place = rows.index(label)
                self.added.weight.data[row], self.added.bias.data[row] = known.weight[place], known.bias[place]
        self.network.requires_grad_(what == "all")
        self._classifier.requires_grad_(False)

    @property
    def _classifier(self) -> Any:
        return self.network.get_classifier()

    def score(self, features: Tensor, ids: Tensor | None = None) -> Tensor:
        """Logits of the scores that a worker gives: of exclusive labels too."""
        logits: Tensor = self.added(features).float()
        if self.kept:
            own = self._classifier(features).float()
            if self._columns.exclusive:
                shares = own.log_softmax(1)
                own = shares - torch.log1p(-shares.exp().clamp(max=1 - 1e-6))
            logits = torch.cat((own, logits), dim=1)
        order: Any = self._order
        logits = logits[:, order]
        return logits if ids is None else logits[:, ids]

    def weights(self) -> dict[str, Tensor]:
        merge_lora(self.network)
        weights, added = self._own_weights(), self.added
        if self.kept:
            return {**weights, WEIGHT: added.weight, BIAS: added.bias}
        name = next(name for name, module in self.network.named_modules() if module is self._classifier)
        return {**weights, f"{name}.weight": added.weight, f"{name}.bias": added.bias}

    @abstractmethod
    def _made(self, bundle: Bundle, weights: Mapping[str, Tensor], labels: int) -> Any:
        """The bundle's network, with a classifier of its own labels."""

    def _own_weights(self) -> dict[str, Tensor]:
        return dict(self.network.state_dict())

    def options(self) -> dict[str, JsonValue]:
        if self.kept:
            return {"added": list[JsonValue](self._columns.added), "own": self._columns.own}
        return {"exclusive": False, "added": [], "own": len(self.labels)}


class CompactLearner(LinearLearner):
    """EfficientNet-Lite0."""

    def _made(self, bundle: Bundle, weights: Mapping[str, Tensor], labels: int) -> Any:
        return EfficientNetLite0(weights, labels)

    @property
    def _classifier(self) -> Any:
        return self.network.classifier

    def encode(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.network.pooled(images)
        return pooled

    def _own_weights(self) -> dict[str, Tensor]:
        return unfolded(self.network)


class TimmLearner(LinearLearner):
    """A network of timm."""

    def __init__(self, bundle: Bundle, labels: Sequence[str], what: What, drop_labels: bool, rank: int) -> None:
        super().__init__(bundle, labels, what, drop_labels)
        if what == "lora":
            add_lora(self.network, rank, keep=self._classifier)
            if not any(isinstance(module, LoraLinear) for module in self.network.modules()):
                raise Misconfigured(f"LoRA needs linear layers, and {bundle.name} has none: choose head or all.")

    def _made(self, bundle: Bundle, weights: Mapping[str, Tensor], labels: int) -> Any:
        return timm_network.network_of(bundle, weights, labels)

    def encode(self, images: Tensor) -> Tensor:
        return timm_network.features_of(self.network, images)


def learner_of(
    bundle: Bundle,
    labels: Sequence[str],
    what: What,
    *,
    rank: int = 8,
    embeddings: Mapping[str, Tensor] | None = None,
    drop_labels: bool = False,
) -> Learner:
    """A network of a bundle that is to know these labels too.

    Args:
        labels: of the training set; those that the bundle has are trained further.
        rank: of LoRA.
        embeddings: of new labels, by name: (descriptions, embedding), of length 1.
        drop_labels: whether they take the place of the bundle's.

    Raises:
        Misconfigured: a bundle that can't be trained so.
    """
    kind = bundle.manifest.kind
    if bundle.manifest.options.get("added") and kind in ("ram", "ram_plus"):
        raise Misconfigured(
            f"{bundle.name} has labels beside its network, which lora and all would spoil: begin with the bundle that "
            "they were added to, or choose head."
        )
    if kind in ("ram", "ram_plus"):
        if drop_labels:
            raise Misconfigured(f"{bundle.name} has no classifier of its own to replace: leave --drop-labels out.")
        known = set(bundle.labels)
        new = [name for name in labels if name not in known]
        return RamLearner(bundle, new, what, rank, embeddings or {})
    if kind == timm_network.KIND:
        return TimmLearner(bundle, labels, what, drop_labels, rank)
    if kind != COMPACT:
        raise Misconfigured(
            f"{bundle.folder} has a model of kind {kind!r}; `train fit` takes RAM, RAM++, the compact tagger and "
            "networks of timm."
        )
    if what == "lora":
        raise Misconfigured("LoRA needs linear layers, and the compact tagger has convolutions: choose head or all.")
    return CompactLearner(bundle, labels, what, drop_labels)
