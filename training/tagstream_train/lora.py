"""LoRA (Hu et al., 2021): linear layers learn by low-rank matrices.

peft does the same, but brings 67 MB of transformers along.

So a large encoder is trained with the memory of a small one, and the bundle that comes out is like any other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.models.cpu_layers import replace_layers


class LoraLinear(nn.Module):
    """A frozen linear layer plus `up` times `down`, zero at first."""

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
