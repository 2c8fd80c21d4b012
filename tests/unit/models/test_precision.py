"""Precisions: which a model may run in, and how far its answers agree."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from workers.errors import Broken, Misconfigured
from workers.models.cpu_layers import Int8Linear, quantize_linears
from workers.models.device import Device
from workers.models.precision import (
    LONGEST_BATCH_S,
    Tuned,
    check_batches,
    check_golden,
    remember_tuned,
    resolve,
    settle_batch,
    stored_tuning,
)

CPU = Device("cpu", "A Processor (TM) @ 2.0 GHz")
CUDA = Device("cuda", "A Card", "graphs")
DIGEST = "ab" * 32
TUNED = Tuned(DIGEST, "tagger", CPU.name, "int8", 8, "eager")


@pytest.mark.parametrize(("device", "precision"), [(CPU, "fp32"), (CUDA, "bf16")])
def test_without_a_stored_answer_it_falls_back_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, device: Device, precision: str
) -> None:
    with caplog.at_level(logging.WARNING):
        found = resolve("tuned", DIGEST, "tagger", device, tmp_path)
    assert (found.precision, found.max_batch, found.execution) == (precision, 0, device.execution)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert device.name in caplog.text
    assert "tagstream models tune" in caplog.text


def test_a_stored_answer_is_taken_without_a_warning_and_its_execution_counts_for_its_precision(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tuned = Tuned(DIGEST, "tagger", CUDA.name, "bf16", 8, "compiled")
    remember_tuned(tuned, CUDA, tmp_path)
    assert resolve("tuned", DIGEST, "tagger", CUDA, tmp_path) == tuned
    assert resolve("bf16", DIGEST, "tagger", CUDA, tmp_path) == tuned
    plain = Tuned(DIGEST, "tagger", CUDA.name, "fp16", 0, "graphs")
    assert resolve("fp16", DIGEST, "tagger", CUDA, tmp_path) == plain
    assert caplog.records == []


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_an_answer_without_an_execution_belongs_to_the_devices_own(device: Device, tmp_path: Path) -> None:
    remember_tuned(Tuned(DIGEST, "tagger", device.name, "bf16", 8, "compiled"), device, tmp_path)
    (path,) = (tmp_path / "tuned").iterdir()
    stored = json.loads(path.read_text())
    del stored["execution"]
    path.write_text(json.dumps(stored))
    tuned = Tuned(DIGEST, "tagger", device.name, "bf16", 8, device.execution)
    assert resolve("tuned", DIGEST, "tagger", device, tmp_path) == tuned


def test_an_answer_for_another_bundle_or_device_is_not_taken(tmp_path: Path) -> None:
    remember_tuned(TUNED, CPU, tmp_path)
    assert stored_tuning("cd" * 32, "tagger", CPU, tmp_path) is None
    assert stored_tuning(DIGEST, "tagger", CUDA, tmp_path) is None
    assert stored_tuning(DIGEST, "tagger", CPU, None) is None


def test_a_bundle_that_tags_and_captions_is_tuned_for_each(tmp_path: Path) -> None:
    captioner = Tuned(DIGEST, "captioner", CPU.name, "bf16", 2, "eager")
    for tuned in (TUNED, captioner):
        remember_tuned(tuned, CPU, tmp_path)
    assert stored_tuning(DIGEST, "tagger", CPU, tmp_path) == TUNED
    assert stored_tuning(DIGEST, "captioner", CPU, tmp_path) == captioner


UNKNOWN_BATCH = '{"digest":"%s","role":"tagger","device":"%s","precision":"fp32","max_batch":"all"}'
UNKNOWN_EXECUTION = (
    '{"digest":"%s","use":"tagger","device":"%s","precision":"fp32","max_batch":8,"execution":"by magic"}'
)
UNKNOWN_PRECISION = '{"digest":"%s","role":"tagger","device":"%s","precision":"fp8","max_batch":8}'


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "[" * 100_000, '{"digest": "x"}', UNKNOWN_PRECISION, UNKNOWN_BATCH, UNKNOWN_EXECUTION]
)
def test_an_unreadable_answer_is_no_answer(tmp_path: Path, content: str) -> None:
    remember_tuned(TUNED, CPU, tmp_path)
    (path,) = (tmp_path / "tuned").iterdir()
    path.write_text(content % (DIGEST, CPU.name) if "%s" in content else content)
    assert stored_tuning(DIGEST, "tagger", CPU, tmp_path) is None


def test_an_unknown_precision_is_a_sentence() -> None:
    with pytest.raises(Misconfigured, match="may be tuned, fp32, bf16, fp16, int8"):
        resolve("fp64", DIGEST, "tagger", CPU, None)


class Batches:
    """A device with `seconds` for a batch by size, or without room for it; it has its own clock."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self._seconds = seconds
        self.now = 0.0
        self.ran: list[int] = []

    def __call__(self, size: int) -> None:
        self.ran.append(size)
        if size not in self._seconds:
            raise MemoryError(f"{size} do not fit")
        self.now += self._seconds[size]

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "batch", "ran"),
    [
        ({4: 0.4}, 4, [4]),
        ({4: LONGEST_BATCH_S}, 2, [4]),
        ({4: 9.0}, 1, [4]),
        ({4: 36.0}, 1, [4]),
        ({1: 0.1, 2: 0.2}, 2, [4, 2]),
        ({1: 9.0}, 1, [4, 2, 1]),
    ],
    ids=["all quick", "four too slow", "two too slow", "even one is slow", "four do not fit", "one alone fits"],
)
def test_the_largest_batch_that_is_quick_and_fits_is_safe(
    seconds: dict[int, float], batch: int, ran: list[int]
) -> None:
    device = Batches(seconds)
    assert settle_batch(device, clock=device.clock) == batch
    assert device.ran == ran


def test_a_device_without_memory_for_one_image_is_broken() -> None:
    with pytest.raises(Broken, match="no memory for a single image"):
        settle_batch(Batches({}))


GOLDEN = np.array([[-5.0, 5.0]], np.float32)


@pytest.mark.parametrize(
    ("precision", "off", "agrees"),
    [("fp32", 0.009, True), ("fp32", 0.011, False), ("bf16", 0.9, True), ("bf16", 1.1, False), ("int8", 1.4, True)],
)
def test_answers_may_drift_only_as_far_as_the_precision_explains(precision: str, off: float, agrees: bool) -> None:
    found = GOLDEN + np.array([[0.0, off]], np.float32)
    if agrees:
        assert check_golden("it", precision, GOLDEN, found) == pytest.approx(off / 10, rel=1e-3)  # type: ignore[arg-type]
    else:
        with pytest.raises(Broken, match="does not give its golden answers"):
            check_golden("it", precision, GOLDEN, found)  # type: ignore[arg-type]


@pytest.mark.parametrize("found", [np.array([[np.nan, 5.0]], np.float32), np.zeros((1, 3), np.float32)])
def test_answers_without_numbers_or_of_another_shape_are_broken(
    found: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> None:
    with pytest.raises(Broken):
        check_golden("it", "int8", GOLDEN, found)


TWO = np.array([[-5.0, 5.0], [5.0, -5.0]], np.float32)


def test_golden_images_fill_batches_of_every_size_in_turn() -> None:
    asked: list[list[int]] = []

    def answers(places: list[int]) -> NDArray[np.float32]:
        asked.append(places)
        return TWO[places]

    check_batches("it", "fp32", TWO, answers, [1, 3, 4])
    assert asked == [[0], [0, 1, 0], [0, 1, 0, 1]]


def test_one_wrong_row_of_one_size_is_broken_and_the_size_is_named() -> None:
    def answers(places: list[int]) -> NDArray[np.float32]:
        found = TWO[places]
        if len(places) == 4:
            found[3] += 0.1
        return found

    check_batches("it", "fp32", TWO, answers, [1, 2, 3])
    with pytest.raises(Broken, match="it, in batches of 4, in fp32 does not give its golden answers"):
        check_batches("it", "fp32", TWO, answers, [1, 2, 3, 4])


def test_a_size_that_does_not_fit_ends_the_check() -> None:
    asked: list[int] = []

    def answers(places: list[int]) -> NDArray[np.float32]:
        asked.append(len(places))
        if len(places) > 2:
            raise MemoryError
        return TWO[places]

    check_batches("it", "fp32", TWO, answers, [2, 3, 4])
    assert asked == [2, 3]


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


def test_a_row_does_not_depend_on_other_rows() -> None:
    torch.manual_seed(0)
    layer = Int8Linear(nn.Linear(32, 16))
    quiet, loud = torch.randn(1, 32), 1000 * torch.randn(1, 32)
    with torch.inference_mode():
        assert torch.equal(layer(torch.cat([quiet, loud]))[:1], layer(quiet))


def test_a_row_of_zeros_gives_the_bias_and_a_row_of_weights_that_is_zero_stays_zero() -> None:
    linear, zero = nn.Linear(32, 16), nn.Linear(32, 16, bias=False)
    nn.init.zeros_(zero.weight)
    with torch.inference_mode():
        assert torch.equal(Int8Linear(linear)(torch.zeros(3, 32)), linear.bias.expand(3, 16))
        assert not Int8Linear(zero)(torch.randn(3, 32)).any()


def test_attention_still_runs_because_its_own_projection_stays() -> None:
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    quantize_linears(attention)
    x = torch.randn(1, 4, 16)
    with torch.inference_mode():
        assert attention(x, x, x)[0].shape == x.shape


def test_every_linear_layer_of_a_module_is_replaced_and_nothing_else() -> None:
    module = nn.Sequential(nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.Linear(8, 2))
    quantize_linears(module)
    kinds = [type(child).__name__ for child in module.modules()]
    assert kinds == ["Sequential", "LayerNorm", "Sequential", "Int8Linear", "GELU", "Int8Linear"]
