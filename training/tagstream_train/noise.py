"""Dropout and stochastic depth for RAM, RAM++ and Tag2Text.

The models are written for inference and have neither. Both act on what a projection gives before it is added to the
residual, so that hooks on these projections are exactly what the original programs do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

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
