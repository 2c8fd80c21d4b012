from __future__ import annotations

import pytest
import torch
from torch import nn

from workers.models.cpu_layers import Int8Linear, quantize_linears


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64,), (1, 64), (5, 64), (2, 7, 64)])
def test_an_int8_layer_is_near_the_layer_it_stands_for(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias)
    x = torch.randn(shape)
    with torch.inference_mode():
        expected = linear(x)
        found = Int8Linear(linear)(x)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    torch.manual_seed(0)
    layer = Int8Linear(nn.Linear(32, 16))
    quiet, loud = torch.randn(1, 32), 1000 * torch.randn(1, 32)
    with torch.inference_mode():
        assert torch.equal(layer(torch.cat([quiet, loud]))[:1], layer(quiet))


def test_a_row_of_zeros_gives_the_bias() -> None:
    linear = nn.Linear(32, 16)
    with torch.inference_mode():
        assert torch.equal(Int8Linear(linear)(torch.zeros(3, 32)), linear.bias.expand(3, 16))


def test_a_row_of_weights_that_is_zero_stays_zero() -> None:
    linear = nn.Linear(32, 16, bias=False)
    nn.init.zeros_(linear.weight)
    with torch.inference_mode():
        assert not Int8Linear(linear)(torch.randn(3, 32)).any()


def test_attention_still_runs_because_its_own_projection_stays() -> None:
    attention = quantize_linears(nn.MultiheadAttention(16, 2, batch_first=True))
    x = torch.randn(1, 4, 16)
    with torch.inference_mode():
        assert attention(x, x, x)[0].shape == x.shape


def test_every_linear_layer_of_a_module_is_replaced_and_nothing_else() -> None:
    module = quantize_linears(
        nn.Sequential(nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.Linear(8, 2))
    )
    kinds = [type(child).__name__ for child in module.modules()]
    assert kinds == ["Sequential", "LayerNorm", "Sequential", "Int8Linear", "GELU", "Int8Linear"]
