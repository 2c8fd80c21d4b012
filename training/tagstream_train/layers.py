"""Layers for training alone: dropout, stochastic depth and LoRA.

The models are written for inference and have none. Dropout and depth act on what a projection gives before it is
added to the residual, so that hooks on these projections are exactly what the original programs do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.models.cpu_layers import replace_layers
from workers.models.ram.layers import CrossLayer, SelfAttention
from workers.models.ram.networks import LabelScorer
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
