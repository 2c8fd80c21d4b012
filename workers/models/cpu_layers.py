"""Linear layers for CPUs that replace a model's: in int8, or packed for the processor's kernels.

In int8 weights are quantised once, by output channel; inputs as they come, by row. A row is one token of one image, so
an answer does not depend on what else is in the batch, as it would with one scale for the whole tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.models.bundle import Bundle

SHARED_BYTES = 16 * 1024**2
"""A parameter of this size stays in the mapped file, where workers of one machine share its pages."""


def replace_layers(module: nn.Module, replacement: Callable[[str, nn.Module], nn.Module | None]) -> None:
    """Replace layers below a module, in place.

    Args:
        replacement: of a layer and its attribute's name; the layer itself: it and its children stay; None: ask for
            its children.
    """
    for name, child in list(module.named_children()):
        other = replacement(name, child)
        if other is None:
            replace_layers(child, replacement)
        else:
            setattr(module, name, other)


def leave_file(module: nn.Module, bundle: Bundle, mapped: Mapping[str, Tensor]) -> None:
    """Release the mapped weights' file once weights were copied to another layout.

    The file is mapped as one, and a single parameter that still lies in it keeps all of it that was read in memory. So
    small ones are copied, and large ones taken from the file again, where processes share them.

    Args:
        mapped: the parameters as they came from `bundle`, unchanged since.
    """
    names = {tensor.untyped_storage().data_ptr(): name for name, tensor in mapped.items()}
    again: dict[str, Tensor] = {}
    with torch.no_grad():
        for parameter in module.parameters():
            name = names.get(parameter.untyped_storage().data_ptr())
            if name is None:  # its own memory already
                continue
            if parameter.nbytes < SHARED_BYTES or parameter.shape != mapped[name].shape:
                parameter.data = parameter.data.clone()
            else:
                again = again or bundle.weights()
                parameter.data = again[name]


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


def quantize_linears(module: nn.Module) -> None:
    """Replace, in place, every `nn.Linear` below `module` by its `Int8Linear`.

    Subclasses stay: the modules that make them (`nn.MultiheadAttention`) read their weights instead of calling them.
    """
    replace_layers(module, lambda _, layer: Int8Linear(layer) if type(layer) is nn.Linear else None)


Activation = Literal["none", "gelu", "gelu_tanh", "quick_gelu"]
"""GELU by its integral, in its tanh form, or as x · sigmoid(1.702 x)."""


class PackedLinear(nn.Module):
    """A linear layer in oneDNN's layout: inference on a CPU, fp32 or bf16."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int) -> None:
        """Lay the weights out for this number of rows; others work too."""
        super().__init__()
        self.bias = bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)

    def forward(self, x: Tensor, fused: Activation = "none") -> Tensor:
        """With an activation fused in; oneDNN lacks `quick_gelu`."""
        name, _, form = fused.partition("_")
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, name, [], form or "none")
        return out

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """The residual plus what `forward` gives."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.packed, self.bias, "add")
        return out


def gelu_of(linear: nn.Module, x: Tensor, form: Activation = "gelu") -> Tensor:
    """gelu(linear(x)), in this form"""
    if form == "quick_gelu":
        wide: Tensor = linear(x)
        return (1.702 * wide).sigmoid_().mul_(wide)
    if isinstance(linear, PackedLinear):
        return linear(x, form)  # type: ignore[no-any-return]
    return F.gelu(linear(x), approximate="tanh" if form == "gelu_tanh" else "none")


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
