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
from typing import Literal, Self, TypeAlias

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.errors import Misconfigured
from workers.models import timm_network
from workers.models.bundle import Bundle
from workers.models.compact import FEATURES, EfficientNetLite0, unfolded
from workers.models.compact import KIND as COMPACT
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

    @abstractmethod
    def architecture(self) -> dict[str, JsonValue]:
        """And the manifest's `architecture`."""

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


class CompactLearner(Learner):
    """EfficientNet-Lite0 without its old labels."""

    def __init__(self, bundle: Bundle, labels: Sequence[str], what: What) -> None:
        super().__init__(labels, 0, what)
        self.network = EfficientNetLite0(bundle.weights(), bundle.manifest.labels)
        self.network.classifier = nn.Linear(FEATURES, len(labels))
        nn.init.zeros_(self.network.classifier.weight)
        nn.init.constant_(self.network.classifier.bias, MOSTLY_ABSENT)
        self.network.features.requires_grad_(True)

    def encode(self, images: Tensor) -> Tensor:
        return self.network.pooled(images)

    def score(self, features: Tensor, ids: Tensor | None = None) -> Tensor:
        logits: Tensor = self.network.classifier(features).float()
        return logits if ids is None else logits[:, ids]

    def weights(self) -> dict[str, Tensor]:
        return unfolded(self.network)

    def architecture(self) -> dict[str, JsonValue]:
        return {}

    def options(self) -> dict[str, JsonValue]:
        return {"exclusive": False}


class TimmLearner(Learner):
    """A network of timm, without its old labels."""

    def __init__(self, bundle: Bundle, labels: Sequence[str], what: What, rank: int) -> None:
        super().__init__(labels, 0, what)
        self._architecture = dict(bundle.manifest.architecture)
        self.network = timm_network.network_of(bundle, bundle.weights(), bundle.manifest.labels)
        self.network.reset_classifier(len(labels))
        classifier = self._classifier
        if not isinstance(classifier, nn.Linear):
            raise Misconfigured(f"{bundle.name} has no linear classifier; choose another network.")
        nn.init.zeros_(classifier.weight)
        nn.init.constant_(classifier.bias, MOSTLY_ABSENT)
        self.network.requires_grad_(what == "all")
        if what == "lora":
            add_lora(self.network, rank, keep=classifier)
            if not any(isinstance(module, LoraLinear) for module in self.network.modules()):
                raise Misconfigured(f"LoRA needs linear layers, and {bundle.name} has none: choose head or all.")
        classifier.requires_grad_(True)

    @property
    def _classifier(self) -> nn.Module:
        found: nn.Module = self.network.get_classifier()
        return found

    def encode(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.forward_head(self.network.forward_features(images), pre_logits=True)
        return features

    def score(self, features: Tensor, ids: Tensor | None = None) -> Tensor:
        logits: Tensor = self._classifier(features).float()
        return logits if ids is None else logits[:, ids]

    def weights(self) -> dict[str, Tensor]:
        merge_lora(self.network)
        return dict(self.network.state_dict())

    def architecture(self) -> dict[str, JsonValue]:
        return self._architecture

    def options(self) -> dict[str, JsonValue]:
        return {"exclusive": False}


def learner_of(
    bundle: Bundle, labels: Sequence[str], what: What, *, rank: int = 8, embeddings: Mapping[str, Tensor] | None = None
) -> Learner:
    """A network of a bundle that is to know these labels too.

    Args:
        labels: of the training set; those that the bundle has are trained further.
        rank: of LoRA.
        embeddings: of new labels, by name: (descriptions, embedding), of length 1.

    Raises:
        Misconfigured: a bundle that can't be trained so.
    """
    kind = bundle.manifest.kind
    if bundle.manifest.options.get("added"):
        raise Misconfigured(
            f"{bundle.name} has labels beside its network, which lora and all would spoil: begin with the bundle that "
            "they were added to, or choose head."
        )
    if kind in ("ram", "ram_plus"):
        known = set(bundle.labels)
        new = [name for name in labels if name not in known]
        return RamLearner(bundle, new, what, rank, embeddings or {})
    if kind == timm_network.KIND:
        return TimmLearner(bundle, labels, what, rank)
    if kind != COMPACT:
        raise Misconfigured(
            f"{bundle.folder} has a model of kind {kind!r}; `train fit` takes RAM, RAM++, the compact tagger and "
            "networks of timm."
        )
    if what == "lora":
        raise Misconfigured("LoRA needs linear layers, and the compact tagger has convolutions: choose head or all.")
    return CompactLearner(bundle, labels, what)
