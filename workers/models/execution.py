"""Records functions as CUDA graphs, once for each batch size.

Starting a kernel costs the host some microseconds, and an image encoder has several hundred, so with few images the
device waits for the host. A graph starts them all in one call, but always for the same shapes at the same addresses. So
a batch is copied into the input of the smallest bucket that holds it, and the graph's output is copied out. Rows of the
bucket beyond the batch keep older content: rows never see each other, so these are computed and cut off.
Weights are frozen when a model runs and never move, so a recording stays true as long as the model lives.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Batch sizes that are recorded: at most a quarter of one is padding."""
WARM_UPS = 3
"""Runs before the recording: libraries choose kernels and take memory at their first calls, which a graph may not."""

Function: TypeAlias = Callable[[Tensor], Tensor]
"""From a batch (n, …) to a batch (n, …), row by row; of fixed shapes but for n, and without a look at any result."""


class Recording(Protocol):
    """A recorded function of one input tensor, replayed on its current content."""

    @property
    def output(self) -> Tensor:
        """The result of the last `replay`."""

    def replay(self) -> None:
        """Run again on the input tensor's current content."""


Record: TypeAlias = Callable[[Function, Tensor], Recording]


class Bucketed:
    """A function that replays its recordings, one a bucket, made at need.

    A batch beyond the largest bucket is computed in pieces; one whose recording fails, as without any of this.

    Args:
        record: makes a recording of a function with this input.
        buckets: batch sizes, ascending.
    """

    def __init__(self, function: Function, record: Record, buckets: Sequence[int] = BUCKETS) -> None:
        self._function = function
        self._record = record
        self._buckets = buckets
        self._recorded: dict[int, tuple[Tensor, Recording] | None] = {}

    def __call__(self, batch: Tensor) -> Tensor:
        rows, largest = len(batch), self._buckets[-1]
        if rows > largest:
            return torch.cat([self(piece) for piece in torch.split(batch, largest)])
        bucket = bucket_for(rows, self._buckets)
        if bucket is None:
            return self._function(batch)
        if bucket not in self._recorded:
            self._recorded[bucket] = self._try(batch, bucket)
        found = self._recorded[bucket]
        if found is None:
            return self._function(batch)
        given, recording = found
        given[:rows].copy_(batch)
        recording.replay()
        return recording.output[:rows].clone()  # the next replay writes over it

    def _try(self, batch: Tensor, bucket: int) -> tuple[Tensor, Recording] | None:
        """The bucket's input and its recording; None if it can't be recorded. A broken device fails without too."""
        try:
            given = torch.empty_strided(
                (bucket, *batch.shape[1:]), batch.stride(), dtype=batch.dtype, device=batch.device
            ).zero_()
            return given, self._record(self._function, given)
        except RuntimeError as error:  # memory that runs out among them
            reason = str(error).splitlines()[0]
            logger.warning("no CUDA graph for batches of %s, which run a little slower: %s", bucket, reason)
            return None


def bucket_for(rows: int, buckets: Sequence[int]) -> int | None:
    """The smallest bucket for this number of rows; None beyond the largest bucket and for 0."""
    return next((bucket for bucket in buckets if 0 < rows <= bucket), None)


def sizes_up_to(largest: int) -> list[int]:
    """The batch sizes, at most `largest`, that need a bucket."""
    return sorted({min(bucket, largest) for bucket in BUCKETS})


@dataclass(slots=True)
class Call:
    """A recording for devices without CUDA graphs: it calls the function, with few shapes all the same."""

    function: Function
    given: Tensor
    output: Tensor

    def replay(self) -> None:
        self.output = self.function(self.given)


def call_again(function: Function, given: Tensor) -> Call:
    """A `Record` for CPUs: nothing is recorded, the function runs for few shapes."""
    return Call(function, given, function(given))


@dataclass(frozen=True, slots=True)
class CudaRecording:
    """A captured CUDA graph."""

    graph: Any
    output: Tensor

    def replay(self) -> None:
        self.graph.replay()


class CudaRecorder:
    """Captures CUDA graphs. All of one recorder share their memory, so they must not run at the same time.

    That holds on the one device thread, on one stream; and inputs and outputs are never shared, because they live on.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: Any = None

    def __call__(self, function: Function, given: Tensor) -> CudaRecording:
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._warm_up(function, given)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may go on using CUDA meanwhile
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            output = function(given)
        self._pool = graph.pool()
        return CudaRecording(graph, output)

    def _warm_up(self, function: Function, given: Tensor) -> None:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                function(given)
        current.wait_stream(self._stream)


def leave_triton_out() -> None:
    """Keep optimizers from importing triton on a machine without a GPU.

    Call it before anything imports the compiler. The machine has no use for triton, whose library lists its leaks on
    standard error when the process ends.
    """
    if not torch.cuda.is_available():
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]  # which makes its import fail
