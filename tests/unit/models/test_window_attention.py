"""Window attention runs in torch's fused kernels, bias and mask included, and gives what plain products give; on CPUs
also some windows at a time."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.unit.models.small import CPU, small_bundle
from workers.models.device import Precision
from workers.models.ram import swin
from workers.models.ram.config import SwinConfig
from workers.models.ram.engine import engine_of
from workers.models.ram.swin import Swin, WindowAttention

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [7, 12], ids=["224 pixels", "384 pixels"])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("together", [1, 3, 4], ids=["one by one", "three and one", "all"])
def test_windows_in_chunks_give_the_results_of_all_at_once(
    dtype: torch.dtype, window: int, shifted: bool, images: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = attention(window, window // 2 if shifted else 0, "cpu", dtype)
    x = torch.randn(images, 4, window * window, 64, dtype=dtype)
    scores_bytes = 2 * window**4 * 4
    monkeypatch.setattr(swin, "SCORES_BYTES", 1 + together * scores_bytes // torch.get_num_threads())
    with torch.inference_mode():
        with sdpa_kernel([SDPBackend.MATH]):
            wanted = made(x)
        made.in_chunks = True
        found = made(x)
    off = 1e-5 if dtype == torch.float32 else 2e-2
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, atol=off, rtol=off)


@pytest.mark.parametrize("images", [1, 3])
def test_an_encoder_in_chunks_gives_the_same_results(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = Swin(SwinConfig(image_size=96, width=16, depths=(2, 2, 2, 1), heads=(1, 2, 4, 8), window=3))
    encoder = encoder.eval().requires_grad_(False)
    encoder.freeze()
    x = torch.randn(images, 3, 96, 96)
    seen: list[int] = []
    encoder.patches.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    later: list[int] = []
    encoder.stages[2].register_forward_pre_hook(lambda _, given: later.append(len(given[0])))
    monkeypatch.setattr("workers.models.ram.swin.THREADS_AN_IMAGE", torch.get_num_threads())
    monkeypatch.setattr("workers.models.ram.swin.LAYER_BYTES", 2 * 6 * 6 * 4 * 64 * 4)  # two images of 6 x 6 tokens
    with torch.inference_mode():
        wanted = encoder(x)
        encoder.run_in_chunks()
        found = encoder(x)
    assert seen == [images] + [1] * images
    assert later == {1: [1, 1], 3: [3, 2, 1]}[images]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "fp16"])
def test_an_engine_runs_its_encoder_in_chunks_where_the_device_does(precision: Precision, tmp_path: Path) -> None:
    assert engine_of(small_bundle("ram", tmp_path), CPU, precision).model.encoder.in_chunks is CPU.chunks(precision)
