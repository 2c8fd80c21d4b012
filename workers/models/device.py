"""The differences between a CPU and a CUDA device: placing, uploading, running, memory errors.

A model takes its images from `Device.upload` or `Device.stream`, puts its modules in place with `Device.place`, and
runs inside `Device.run()`. A model's input is the same on both: uint8 images on the device, in channels-last
memory, which is also how the intake leaves them, so nothing is copied to re-order them.
"""

from __future__ import annotations

import os
import platform
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from workers.errors import Broken, Misconfigured
from workers.models.cpu_layers import quantize_linears
from workers.models.execution import Bucketed, Compiled, CudaRecorder, Function, call_again, sizes_up_to, try_out
from workers.processors import processors
from workers.types import Pixels

# Fresh memory in pages of 2 MiB instead of 4 KiB, where Linux has them, costs half, and reading it less. torch reads
# this once, when it first needs memory.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

Precision = Literal["fp32", "bf16", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Execution = Literal["eager", "graphs", "compiled"]
"""How a model's functions of a batch run: kernel by kernel as they are written; as CUDA graphs of these kernels
(`graphs`); or compiled to fewer kernels first (`compiler`), on CUDA in graphs too."""
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)


def named(precision: Precision, execution: Execution) -> str:
    """Precision and execution, for people: "fp32", "bf16 compiled"."""
    return precision if execution == "eager" else f"{precision} {execution}"


_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float32,  # what is not a linear layer stays in fp32
}

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Device:
    """One CPU or one CUDA device.

    Args:
        name: the hardware's own name, as part of the key under which tuning is remembered.
    """

    kind: Literal["cpu", "cuda"]
    name: str
    execution: Execution = "eager"
    _copies: Any = field(default=None, repr=False, compare=False)
    """CUDA: the stream that uploads run on."""
    strict: bool = False
    """Whether a model that can't be compiled raises Misconfigured, instead of running as it is written."""

    @property
    def where(self) -> torch.device:
        return torch.device(self.kind)

    @property
    def executions(self) -> tuple[Execution, ...]:
        """Executions worth trying here, the plainest first."""
        return EXECUTIONS if self.kind == "cuda" else ("eager",)

    def executing(self, execution: Execution) -> Device:
        """The same device with this execution alone, to measure it: `strict`.

        Raises Misconfigured: it can't, or torch's compiler does not work here, which is tried out.
        """
        if execution == "graphs" and self.kind == "cpu":
            raise Misconfigured("A CPU has no CUDA graphs.")
        if execution == "compiled":
            try_out(self.where)
        return replace(self, execution=execution, strict=True)

    def fuses(self, precision: Precision) -> bool:
        """Whether models run oneDNN's layers with what follows them fused in: on CPUs, in builds of torch that have
        them (x86-64), and in bf16 on processors with AVX-512, or AVX2 with conversions of its own. No compiler knows
        them."""
        if self.kind != "cpu" or self.execution != "eager" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return False
        if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
            return False
        return precision == "fp32" or (precision == "bf16" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))

    def chunks(self, precision: Precision) -> bool:
        """Whether models cut large layers into parts that stay in cache: on CPUs, where torch multiplies batches of
        small matrices fast: by MKL in fp32, by oneDNN in bf16. Not in bf16 on processors with AMX, which torch's fused
        attention uses."""
        if self.kind != "cpu" or self.execution != "eager" or not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
            return False
        if precision == "bf16":
            return self.fuses(precision) and not torch.cpu._is_amx_tile_supported()
        return precision in ("fp32", "int8")

    def dtype(self, precision: Precision) -> torch.dtype:
        """The dtype of activations in this precision."""
        return _DTYPES[precision]

    def place(self, module: Module, precision: Precision) -> Module:
        """The module ready to run here: evaluation mode, no gradients, weights in `precision`, channels-last.

        "int8" replaces linear layers by int8 ones with dynamically quantised inputs (`int8.quantize_linears`); only
        CPUs have them. Raises Misconfigured: the device does not compute in this precision.
        """
        module = module.eval().requires_grad_(False)
        if precision == "int8":
            if self.kind != "cpu":
                raise Misconfigured("int8 runs on CPUs only; on CUDA choose bf16, fp16 or fp32.")
            quantize_linears(module)
        # typed as Module.to(device, dtype) only when memory_format is not given
        return cast("Module", module.to(self.where, self.dtype(precision), memory_format=torch.channels_last))  # type: ignore[call-overload]

    def upload(self, images: Sequence[Pixels]) -> Tensor:
        """(n, 3, height, width) uint8 on the device, channels-last. All images have one size; at least one."""
        cuda = self.kind == "cuda"
        batch = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, pin_memory=cuda)
        np.stack(images, out=batch.numpy())
        return (self._send(batch) if cuda else batch).permute(0, 3, 1, 2)

    def stream(self, images: Sequence[Pixels], size: int) -> Iterator[Tensor]:
        """`upload` in pieces of at most `size` images.

        CUDA computes behind the host's back, so a piece is gathered, pinned and sent while the one before it is being
        computed, as long as no results are read in between.
        """
        for start in range(0, len(images), size):
            yield self.upload(images[start : start + size])

    def functions(self) -> Callable[[Function], Function]:
        """A wrapper for one model's functions, which then run by `execution`.

        Graphs share memory among all functions that one call of this has wrapped.
        """
        if self.execution == "eager":
            return lambda function: function
        record = CudaRecorder() if self.kind == "cuda" else call_again
        if self.execution == "graphs":
            return lambda function: Bucketed(function, record)
        return lambda function: Bucketed(function, record, recorded=Compiled(function, strict=self.strict))

    def batch_sizes(self, largest: int) -> Sequence[int]:
        """Batch sizes up to `largest` with kernels or graphs of their own.

        These are made when they come first: a model runs each of them before it is ready, and checks what comes out.
        """
        return () if self.execution == "eager" else sizes_up_to(largest)

    @contextmanager
    def run(self) -> Iterator[None]:
        """Context for every forward: no gradients, and memory that runs out is a `MemoryError` on every device."""
        try:
            with torch.inference_mode():
                yield
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)  # they hold the tensors that did fit
            self.release()
            raise MemoryError(str(error)) from error
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # all that torch's CPU allocator says
                raise
            raise MemoryError(str(error)) from error

    def synchronise(self) -> None:
        """Wait until the device has finished all its work; only timing needs this."""
        if self.kind == "cuda":
            torch.cuda.synchronize()

    def release(self) -> None:
        """Free cached memory, so that a smaller batch finds it whole."""
        if self.kind == "cuda":
            torch.cuda.empty_cache()

    def _send(self, batch: Tensor) -> Tensor:
        """Copy from pinned memory on the copy stream; the compute stream waits for it, the host does not.

        The batch may be dropped at once: torch's allocator of pinned memory notes the copy and hands the memory out
        again only when it is done.
        """
        with torch.cuda.stream(self._copies):
            sent = batch.to(self.where, non_blocking=True)
        compute = torch.cuda.current_stream()
        compute.wait_stream(self._copies)
        sent.record_stream(compute)  # or its memory could be handed out again while it is still read
        return sent


def require_cuda() -> None:
    """Raises Misconfigured: torch finds no CUDA device."""
    if not torch.cuda.is_available():
        raise Misconfigured("TAGSTREAM_DEVICE is cuda, but torch finds no CUDA device; check the driver, or set cpu.")


def cuda_bytes(wanted: str) -> int:
    """Memory of the CUDA device for TAGSTREAM_DEVICE; 0 where models run on processors."""
    if wanted == "cpu" or not torch.cuda.is_available():
        return 0
    return int(torch.cuda.get_device_properties(0).total_memory)


def cpu_threads() -> int:
    """Threads that torch computes with on processors."""
    return min(processors(), torch.get_num_threads())


def choose_device(wanted: str = "auto", *, threads: int | None = None, share: float = 1.0) -> Device:
    """The device for TAGSTREAM_DEVICE: auto (CUDA where there is one), cpu, cuda.

    Args:
        threads: how many a CPU computes with; None leaves torch's choice, one a core, but for a container that has
            fewer processors.
        share: of the CUDA device's memory that this process may have.

    Raises:
        Misconfigured: an unknown word, or cuda where torch finds no device.
        Broken: a CUDA device that does not start.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise Misconfigured(f"TAGSTREAM_DEVICE is {wanted!r}; it may be auto, cpu or cuda.")
    if threads is not None or processors() < torch.get_num_threads():
        torch.set_num_threads(threads or processors())
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return Device("cpu", cpu_name())
    require_cuda()
    compute_fp32_exactly()
    try:
        if share < 1:
            torch.cuda.set_per_process_memory_fraction(share)  # beyond it memory has run out, as on a smaller device
        return Device("cuda", torch.cuda.get_device_name(), "graphs", torch.cuda.Stream())  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise Broken(f"The CUDA device does not start: {error}") from error


def compute_fp32_exactly() -> None:
    """On CUDA fp32 means fp32: tensor cores would round its inputs to 10 bits, by default in convolutions.

    torch has an older name for this too, which its compiler reads: that fails where the two say different things.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined] # set at import, unseen by mypy
    torch.backends.cuda.matmul.fp32_precision = "ieee"


def cpu_name() -> str:
    """The processor's model name, with the instruction sets that speed precisions up."""
    try:
        facts = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    model = re.search(r"^model name\s*:\s*(.+)$", facts, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", facts, re.MULTILINE)
    sets = {"amx_bf16", "amx_int8", "avx512_bf16", "avx512_fp16", "avx512_vnni"} & set(
        flags[1].split() if flags else ()
    )
    return " ".join([model[1] if model else platform.machine(), *sorted(sets)])


def normaliser(
    mean: Sequence[float], std: Sequence[float], device: Device, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """A function that normalises uint8 images (n, 3, h, w) to `dtype`.

    Computed in fp32 whatever the dtype, as one multiplication and one addition.
    """
    scale = torch.tensor([1 / (255 * s) for s in std], device=device.where).view(1, 3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device.where).view(1, 3, 1, 1)

    def normalise(images: Tensor) -> Tensor:
        return torch.addcmul(shift, images.float(), scale).to(dtype)

    return normalise
