"""Fused linear layers give what plain ones give."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.models.cpu_layers import PackedLinear, gelu_of, pack, sum_of
from workers.models.device import Device

CPU = Device("cpu", "this one")

pytestmark = pytest.mark.skipif(not CPU.fuses("fp32"), reason="this build of torch has no fused linear layers")


@pytest.mark.parametrize("shape", [(5, 48), (2, 7, 48), (2, 3, 4, 48)])
@pytest.mark.parametrize(
    ("dtype", "within"),
    [
        (torch.float32, 1e-5),
        pytest.param(
            torch.bfloat16,
            5e-2,
            marks=pytest.mark.skipif(not CPU.fuses("bf16"), reason="this processor has no fused linear layers in bf16"),
        ),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_packed_layers_give_what_plain_ones_give(
    shape: tuple[int, ...], dtype: torch.dtype, within: float, bias: bool
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, bias=bias).to(dtype).requires_grad_(False)
    x, residual = torch.randn(shape).to(dtype), torch.randn(*shape[:-1], 80).to(dtype)
    packed = PackedLinear(linear.weight, linear.bias, 16)
    kept = residual.clone()
    for found, wanted in (
        (packed(x), linear(x)),
        (gelu_of(packed, x), F.gelu(linear(x))),
        (sum_of(residual, packed, x), residual + linear(x)),
    ):
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() <= within
    assert torch.equal(residual, kept)


def test_packing_leaves_the_layers_that_are_to_be_kept() -> None:
    module = nn.ModuleDict({"up": nn.Linear(4, 4), "query": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
    pack(module, rows=8, keep=("query",))
    assert [type(child) for child in module.values()] == [PackedLinear, nn.Linear, nn.LayerNorm]
