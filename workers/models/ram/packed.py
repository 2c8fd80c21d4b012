"""Linear layers for CPUs with what follows them fused in: the bias, then GELU or a residual sum.

`F.linear` on a CPU writes the bias into the output, multiplies onto it, and leaves GELU and sums to further passes over
memory. oneDNN does all of it while a tile of the output is still in cache, on weights laid out for its kernels once.
What it is worth depends on the shape: wide outputs of narrow inputs (the first stages of the encoder) take half the
time in fp32, and everything gains in bf16, where products are so fast that the passes over memory count.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.models.replacing import replace_layers

Fused = Literal["none", "gelu"]


class PackedLinear(nn.Module):
    """A linear layer in oneDNN's layout. Inference on a CPU alone; fp32 or bf16."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int) -> None:
        """
        Args:
            weight: (outputs, inputs), copied.
            rows: the number of inputs to lay the weights out for; others work too.
        """
        super().__init__()
        self.bias = bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)

    def forward(self, x: Tensor, fused: Fused = "none") -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, fused, [], "none")
        return out

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """The residual plus what `forward` gives."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.packed, self.bias, "add")
        return out


def gelu_of(linear: nn.Module, x: Tensor) -> Tensor:
    """gelu(linear(x))"""
    if isinstance(linear, PackedLinear):
        return linear(x, "gelu")  # type: ignore[no-any-return]
    return F.gelu(linear(x))


def sum_of(residual: Tensor, linear: nn.Module, x: Tensor) -> Tensor:
    """residual + linear(x)"""
    if isinstance(linear, PackedLinear):
        return linear.plus(x, residual)
    out: Tensor = residual + linear(x)
    return out


def pack(module: nn.Module, *, rows: int, keep: tuple[str, ...] = ()) -> None:
    """Replace, in place, every `nn.Linear` below `module` by its packed form.

    Args:
        rows: inputs at a time that are usual here.
        keep: attribute names of layers that stay, because their weights are used in other ways too.
    """

    def packed(name: str, layer: nn.Module) -> nn.Module | None:
        if type(layer) is nn.Linear and name not in keep:
            return PackedLinear(layer.weight, layer.bias, rows)
        return None

    replace_layers(module, packed)
