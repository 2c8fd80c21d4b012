"""Linear layers in int8 for CPUs, through oneDNN (VNNI or AMX where the processor has it).

Weights are quantised once, by output channel; inputs as they come, by row. A row is one token of one image, so an
answer does not depend on what else is in the batch, as it would with one scale for the whole tensor.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from workers.models.replacing import replace_layers

Module = TypeVar("Module", bound=nn.Module)

_STEPS = 127
_WEIGHT_STEPS = _STEPS if torch.cpu._is_vnni_supported() else 64
"""Without VNNI two products are summed in 16 bits before they are summed on: 2 · 255 · 64 is the most that holds."""
_ZERO = 128
"""oneDNN multiplies unsigned inputs: ours lie in 1..255 around this zero."""


class Int8Linear(nn.Module):
    """A linear layer of fp32 inputs and outputs that multiplies in int8.

    The largest error of an output is about 1 % of the largest output; models that pass through many such layers are
    judged by their golden answers, never by this figure.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / _WEIGHT_STEPS
        quantised = torch.round(weight / scale[:, None]).to(torch.int8)
        self.out_features = linear.out_features
        self.packed = torch.ops.onednn.qlinear_prepack(quantised, None)
        self.scale = scale
        self.zeros = torch.zeros(linear.out_features, dtype=torch.int32)
        bias: Tensor | None = linear.bias
        # a copy, so that nothing of the layer stays mapped from the weights' file (`leave_file`)
        self.bias = None if bias is None else bias.detach().to(torch.float32, copy=True)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) to (…, out_features), fp32."""
        rows = x.reshape(-1, x.shape[-1])
        largest = rows.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        quantised = torch.addcmul(rows.new_full((), _ZERO), rows, _STEPS / largest).round_().to(torch.uint8)
        product = torch.ops.onednn.qlinear_pointwise(
            quantised,
            1 / _STEPS,
            _ZERO,
            self.packed,
            self.scale,
            self.zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        product = product.mul_(largest) if self.bias is None else torch.addcmul(self.bias, product, largest)
        return product.view(*x.shape[:-1], self.out_features)


def quantize_linears(module: Module) -> Module:
    """Replace, in place, every `nn.Linear` below `module` by its `Int8Linear`.

    Subclasses stay: the modules that make them (`nn.MultiheadAttention`) read their weights instead of calling them.
    """
    replace_layers(module, lambda _, layer: Int8Linear(layer) if type(layer) is nn.Linear else None)
    return module
