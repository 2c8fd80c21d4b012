"""How a function is executed on CUDA: recorded once as CUDA graphs, or compiled by torch and then recorded.

Starting a kernel costs the host some microseconds, and an image encoder has several hundred, so with few images the
device waits for the host. A graph starts them all in one call, but always for the same shapes at the same addresses. So
a batch is copied into the input of the smallest bucket that holds it, and the graph's output is copied out. Rows of the
bucket beyond the batch keep older content: rows never see each other, so these are computed and cut off.
Weights are frozen when a model runs and never move, so a recording stays true as long as the model lives.

torch's compiler fuses the operations between matrix products: norms, sums, GELU and re-ordering, which else read and
write all activations again and again. A compiled function is made for one shape (`dynamic=False`), which takes from
seconds to a minute. So it is called through `Bucketed`, which has few shapes, and a model's `warm_up` goes through all
of them before the worker is ready. torch counts the shapes of all models that share a function's code, and by itself
stops at 8; here at `SHAPES`. A shape beyond is a failure like any other of the compiler: the function runs as written.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from workers.errors import Misconfigured

logger = logging.getLogger(__name__)

BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Batch sizes that are recorded: at most a quarter of one is padding."""
WARM_UPS = 3
"""Runs before the recording: libraries choose kernels and take memory at their first calls, which a graph may not."""

Function: TypeAlias = Callable[[Tensor], Tensor]
"""From a batch (n, …) to a batch (n, …), row by row; of fixed shapes but for n, and without a look at any result."""


Replay: TypeAlias = Callable[[], Tensor]
"""Runs a recorded function again, on its input tensor's current content."""
Record: TypeAlias = Callable[[Function, Tensor], Replay]


class Bucketed:
    """A function that replays its recordings, one a bucket, made at need.

    A batch beyond the largest bucket is computed in pieces; one whose recording fails, as without any of this.

    Args:
        record: makes a recording of a function with this input.
        recorded: recorded instead of the function, with the same results; None: the function itself.
    """

    def __init__(
        self, function: Function, record: Record, buckets: Sequence[int] = BUCKETS, *, recorded: Function | None = None
    ) -> None:
        self._function = function
        self._record = record
        self._buckets = buckets
        self._to_record = recorded or function
        self._recorded: dict[int, tuple[Tensor, Replay] | None] = {}

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
        given, replay = found
        given[:rows].copy_(batch)
        return replay()[:rows].clone()  # the next replay writes over it

    def _try(self, batch: Tensor, bucket: int) -> tuple[Tensor, Replay] | None:
        """The bucket's input and its recording; None if it can't be recorded. A broken device fails without too."""
        try:
            given = torch.empty_strided(
                (bucket, *batch.shape[1:]), batch.stride(), dtype=batch.dtype, device=batch.device
            ).zero_()
            return given, self._record(self._to_record, given)
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


def call_again(function: Function, given: Tensor) -> Replay:
    """A `Record` for CPUs: nothing is recorded, the function runs for few shapes."""
    function(given)  # a compiler that fails does so here
    return partial(function, given)


class CudaRecorder:
    """Captures CUDA graphs. All of one recorder share their memory, so they must not run at the same time.

    That holds on the one device thread, on one stream; and inputs and outputs are never shared, because they live on.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: Any = None

    def __call__(self, function: Function, given: Tensor) -> Replay:
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                function(given)
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may go on using CUDA meanwhile
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            output = function(given)
        self._pool = graph.pool()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


SHAPES = 256
"""Of each function, over all models of the process: eight buckets for each of some models, with much room."""

Compile: TypeAlias = Callable[[Function], Function]


def leave_triton_out() -> None:
    """Keep torch's compiler from importing triton on a machine without a GPU.

    Call it before anything imports the compiler. The machine has no use for triton, whose library lists its leaks on
    standard error when the process ends.
    """
    if not torch.cuda.is_available():
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]  # which makes its import fail


def inductor(function: Function) -> Function:
    """The function behind torch's own compiler, which begins with the first call.

    Without CUDA graphs: `Bucketed` records the whole of it, and two recorders would be in each other's way. In this
    process alone: torch would start one more for each core, whose memory no budget counts.
    """
    leave_triton_out()
    import torch._dynamo  # these take seconds, and most processes never compile
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = SHAPES
    torch._inductor.config.compile_threads = 1
    return torch.compile(function, fullgraph=True, dynamic=False, options={"triton.cudagraphs": False})


class Compiled:
    """A function that runs compiled; once the compiler has failed, it runs as it is written, and the log says so once.

    Args:
        compile_with: makes the compiled function, at the first call.
        strict: raise Misconfigured instead, as `tune` needs.
    """

    def __init__(self, function: Function, compile_with: Compile = inductor, *, strict: bool = False) -> None:
        self._function = function
        self._compile_with = compile_with
        self._strict = strict
        self._compiled: Function | None = None
        self._failed = False

    def __call__(self, batch: Tensor) -> Tensor:
        if not self._failed:
            try:
                if self._compiled is None:
                    self._compiled = self._compile_with(self._function)
                return self._compiled(batch)
            except torch.OutOfMemoryError:
                raise  # a smaller batch may fit
            except Exception as error:  # it fails in every way there is; the function's own faults come again below
                if self._strict:
                    raise Misconfigured(f"torch's compiler fails: {_reason(error)}") from error
                self._failed, self._compiled = True, None
                logger.warning("torch's compiler failed, so the model runs uncompiled and slower: %s", _reason(error))
        return self._function(batch)


def try_out(where: torch.device, compile_with: Compile = inductor) -> None:
    """Compile something small, and run it. Raises Misconfigured: that does not work here; says why."""
    try:
        found = compile_with(lambda x: x.exp() + 1)(torch.zeros(8, device=where))
    except Exception as error:
        raise Misconfigured(f"torch's compiler does not work here: {_reason(error)}") from error
    if not torch.equal(found, torch.full_like(found, 2)):
        raise Misconfigured("torch's compiler does not work here: compiled code gives wrong results")


def keep_in(folder: Path) -> None:
    """Keep compiled code in this folder; make it if missing.

    The next start traces the model again but compiles nothing. TORCHINDUCTOR_CACHE_DIR overrides it. By default torch
    runs code from a folder in /tmp with a predictable name. Raises Misconfigured: another user owns it, all can write
    to it, or it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        facts = folder.stat()
    except OSError as error:
        raise Misconfigured(f"{folder} can't hold what torch compiles: {error.strerror or error}.") from error
    if facts.st_uid != os.geteuid() or facts.st_mode & 0o002:
        raise Misconfigured(f"{folder} holds compiled code, so only this user may write to it: delete it.")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder.resolve()))


def _reason(error: Exception) -> str:
    """The error's kind, and the first line that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
