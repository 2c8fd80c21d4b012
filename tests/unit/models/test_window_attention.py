"""Window attention runs in torch's fused kernels, bias and mask included, and gives what plain products give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from workers.models.ram.swin import WindowAttention

FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


def attention(window: int, shift: int, device: str, dtype: torch.dtype) -> WindowAttention:
    """A stage's own width of 32 a head, four windows."""
    torch.manual_seed(0)
    made = WindowAttention(64, heads=2, grid=2 * window, window=window, shift=shift)
    torch.nn.init.normal_(made.bias_table)
    made = made.eval().requires_grad_(False).to(device, dtype)
    made.freeze()
    return made


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [7, 12], ids=["224 pixels", "384 pixels"])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("images", [1, 3])
def test_it_is_fused(device: str, dtype: torch.dtype, window: int, shifted: bool, images: int) -> None:
    made = attention(window, window // 2 if shifted else 0, device, dtype)
    x = torch.randn(images, 4, window * window, 64, device=device, dtype=dtype)

    def run(backends: list[SDPBackend]) -> Tensor:
        with sdpa_kernel(backends), torch.inference_mode():
            found: Tensor = made(x)
            return found

    off = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(run(FUSED), run([SDPBackend.MATH]), atol=off, rtol=off)
