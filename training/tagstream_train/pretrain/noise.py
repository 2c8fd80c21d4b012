"""Dropout and stochastic depth, as hooks on the worker's models.

The models are written for inference and have neither. Both act on the output of a projection before it is added to the
residual. So hooks on these projections equal the original programs.
"""

from __future__ import annotations

from functools import partial

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
            branch.register_forward_hook(partial(_skip, rate))
    add_dropout(model, dropout)


def add_dropout(model: nn.Module, dropout: float) -> None:
    """The dropout of `add_noise`, in layers of any module."""
    for module in model.modules():
        if isinstance(module, CrossLayer | SelfAttention):
            module.attention_dropout = dropout
        for dropped in _before_residuals(module):
            dropped.register_forward_hook(lambda part, _, out: F.dropout(out, dropout, part.training))


def _before_residuals(module: nn.Module) -> tuple[nn.Module, ...]:
    if isinstance(module, CrossLayer):
        return module.out, module.down
    if isinstance(module, SelfAttention):
        return (module.out,)
    return (module.norm,) if isinstance(module, Embeddings) else ()


def _skip(rate: float, module: nn.Module, _: object, branch: Tensor) -> Tensor | None:
    """Skips a branch for some images, keeping its mean."""
    images = branch.new_ones(len(branch), *[1] * (branch.dim() - 1))
    return branch * F.dropout(images, rate) if module.training else None
