import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from workers.errors import Misconfigured
from workers.models import device
from workers.models.device import PRECISIONS, Device, Precision, choose_device, cpu_name, normaliser
from workers.types import Pixels

CPU = choose_device("cpu")


def test_where_there_is_no_cuda_auto_is_a_cpu_and_another_device_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == Device("cpu", cpu_name())
    for name, says in (("cuda", "finds no CUDA device"), ("tpu", "may be auto, cpu or cuda")):
        with pytest.raises(Misconfigured, match=says):
            choose_device(name)


def test_the_number_of_threads_is_set() -> None:
    before = torch.get_num_threads()
    choose_device("cpu", threads=1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_a_cpu_computes_with_no_more_threads_than_it_has_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard: a container sees the whole machine, and its threads would use up its share of time in a moment."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.setattr(device, "processors", lambda: 3)
        choose_device("cpu")
        assert torch.get_num_threads() == 3
        torch.set_num_threads(2)
        choose_device("cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def by_itself() -> list[str]:
    """The output of a process: torch decides on huge pages with its first tensor, and exactness can't be undone."""
    code = """
from workers.models.device import compute_fp32_exactly
import torch
tensor = torch.ones(16 << 20)
compute_fp32_exactly()
cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
print(cudnn.allow_tf32, products.allow_tf32, cudnn.conv.fp32_precision, products.fp32_precision)
print(open("/proc/self/smaps").read())
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("THP_")}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return said.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no huge pages")
def test_large_tensors_ask_for_huge_pages(by_itself: list[str]) -> None:
    assert any(line.startswith("VmFlags:") and "hg" in line.split() for line in by_itself)


@pytest.mark.slow
def test_fp32_is_exact_by_both_names_that_torch_has_for_it(by_itself: list[str]) -> None:
    """torch's compiler reads the older name."""
    assert by_itself[0].split() == ["False", "False", "ieee", "ieee"]


def test_uploaded_images_are_channels_last_without_a_copy_to_reorder() -> None:
    images = [np.full((4, 6, 3), value, np.uint8) for value in (1, 2)]
    batch = CPU.upload(images)
    assert batch.shape == (2, 3, 4, 6)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch[:, 0, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (4, [4]), (9, [4, 4, 1])])
def test_a_stream_brings_all_images_in_order(count: int, sizes: list[int]) -> None:
    images = [np.full((2, 2, 3), value, np.uint8) for value in range(count)]
    pieces = list(CPU.stream(images, 4))
    assert [len(piece) for piece in pieces] == sizes
    assert [int(image[0, 0, 0]) for piece in pieces for image in piece] == list(range(count))


def test_a_stream_uploads_no_piece_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = 0
    upload = Device.upload

    def counted(self: Device, images: Sequence[Pixels]) -> torch.Tensor:
        nonlocal uploads
        uploads += 1
        return upload(self, images)

    monkeypatch.setattr(Device, "upload", counted)
    next(CPU.stream([np.zeros((2, 2, 3), np.uint8)] * 3, 1))
    assert uploads == 1


def test_images_are_normalised_by_channel_in_fp32() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(normaliser(mean, std, CPU, torch.float32)(pixels), expected, atol=2e-6, rtol=0)
    assert torch.equal(
        normaliser(mean, std, CPU, torch.bfloat16)(pixels), normaliser(mean, std, CPU, torch.float32)(pixels).bfloat16()
    )


def test_normalised_images_stay_channels_last() -> None:
    normalise = normaliser((0.5,) * 3, (0.5,) * 3, CPU, torch.float32)
    batch = normalise(CPU.upload([np.zeros((8, 8, 3), np.uint8)] * 2))
    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_placed_module_takes_inputs_of_its_precisions_dtype(precision: Precision) -> None:
    module = CPU.place(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Flatten(), nn.Linear(16 * 4, 8)), precision)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    with CPU.run():
        assert module(torch.zeros(2, 3, 4, 4, dtype=CPU.dtype(precision))).dtype == CPU.dtype(precision)


def test_int8_is_refused_on_cuda() -> None:
    with pytest.raises(Misconfigured, match="int8 runs on CPUs only"):
        Device("cuda", "a card").place(nn.Linear(2, 2), "int8")


def test_a_run_computes_no_gradients() -> None:
    with CPU.run():
        assert torch.is_inference_mode_enabled()


def test_memory_that_runs_out_is_a_memory_error_and_any_other_error_of_the_device_stays_unchanged() -> None:
    with pytest.raises(MemoryError), CPU.run():
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(MemoryError), CPU.run():
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), CPU.run():
        torch.zeros(2, 3) @ torch.zeros(2, 3)


def test_a_cpus_name_tells_what_decides_its_fast_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor : 0\nmodel name\t: A Processor\nflags\t\t: sse amx_int8 avx512_bf16 avx2\n"
    monkeypatch.setattr("pathlib.Path.read_text", lambda self: text)
    assert cpu_name() == "A Processor amx_int8 avx512_bf16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestCuda:
    def test_images_arrive_unchanged_while_the_device_computes(self) -> None:
        device = choose_device("cuda")
        images = [np.full((64, 64, 3), value, np.uint8) for value in range(40)]
        busy = torch.randn(2048, 2048, device="cuda")
        sums = []
        for piece in device.stream(images, 8):
            busy = (busy @ busy).clamp(-1, 1)
            sums.append(piece.float().mean(dim=(1, 2, 3)))
        assert torch.cat(sums).tolist() == list(range(40))

    def test_memory_that_runs_out_is_a_memory_error_and_leaves_the_device_usable(self) -> None:
        device = choose_device("cuda")
        with pytest.raises(MemoryError), device.run():
            torch.empty(2**50, device="cuda")
        assert device.upload([np.zeros((4, 4, 3), np.uint8)]).shape == (1, 3, 4, 4)

    def test_fp32_convolutions_are_not_rounded(self) -> None:
        device = choose_device("cuda")
        module = nn.Conv2d(64, 64, 3)
        x = torch.randn(2, 64, 32, 32)
        with device.run():
            expected = module(x)
            found = device.place(module, "fp32")(x.to(device.where)).cpu()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("device", "precision", "mkl", "amx", "cuts"),
    [
        (Device("cpu", "one"), "fp32", True, True, True),
        (Device("cpu", "one"), "int8", True, True, True),
        (Device("cpu", "one"), "bf16", True, False, True),
        (Device("cpu", "one"), "bf16", True, True, False),
        (Device("cpu", "one"), "fp16", True, False, False),
        (Device("cpu", "one"), "fp32", False, False, False),
        (Device("cpu", "one", "compiled"), "fp32", True, False, False),
        (Device("cuda", "one"), "fp32", True, False, False),
    ],
)
def test_models_run_in_chunks_where_small_products_are_fast(
    device: Device, precision: Precision, mkl: bool, amx: bool, cuts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(Device, "fuses", lambda self, precision: True)
    assert device.chunks(precision) is cuts
