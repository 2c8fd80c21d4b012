"""torch's compiler: what stands between the matrix products of a function, fused into few kernels made for them.

Between its products an image encoder reads and writes all of its activations again and again, for norms, sums, GELU and
re-ordering. Compiled, they are a pass each or less. That pays on GPUs, which `tune` finds out; on CPUs the fused linear
layers (`ram/packed.py`) have taken most of it.

A compiled function is made for one shape of its input (`dynamic=False`: a kernel that knows its sizes is the fastest),
which takes from seconds to a minute. So it is called through `Bucketed`, which has few shapes, and a model's `warm_up`
goes through all of them before the worker is ready: a shape that came later would be compiled in the midst of work.
torch counts the shapes of all models that share a function's code, and by itself stops at 8; here at `SHAPES`. What
comes beyond is a failure like any other of the compiler: the function runs as it is written from then on.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from workers.errors import Misconfigured
from workers.models.graphs import Function

logger = logging.getLogger(__name__)

SHAPES = 256
"""Of each function, over all models of the process: eight buckets for each of some models, with much room."""

Compile: TypeAlias = Callable[[Function], Function]


def leave_triton_out() -> None:
    """To be called before what imports torch's compiler, which imports triton where that is installed: a machine
    without a GPU has no use for it, and its library lists its leaks on standard error when the process ends."""
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
    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:
        torch._inductor.config.compile_threads = 1
    return torch.compile(function, fullgraph=True, dynamic=False, options={"triton.cudagraphs": False})


class Compiled:
    """A function that runs compiled; once the compiler has failed, it runs as it is written, and the log says so once.

    Args:
        compile_with: makes the compiled function, at the first call.
        strict: raise Misconfigured instead, for who wants to know what compiling is worth.
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
                logger.warning("torch's compiler failed, so the model runs without it, slower: %s", _reason(error))
        return self._function(batch)


def try_out(where: torch.device, compile_with: Compile = inductor) -> None:
    """Compile something small, and run it.

    Raises:
        Misconfigured: that does not work here; says why.
    """
    try:
        found = compile_with(lambda x: x.exp() + 1)(torch.zeros(8, device=where))
    except Exception as error:
        raise Misconfigured(f"torch's compiler does not work here: {_reason(error)}") from error
    if not torch.equal(found, torch.full_like(found, 2)):
        raise Misconfigured("torch's compiler does not work here: what it makes gives wrong results")


def keep_in(folder: Path) -> None:
    """Keep what is compiled in this folder, made where it is missing, so that the next start traces the model again but
    compiles nothing; unless TORCHINDUCTOR_CACHE_DIR names another. By itself torch takes one in /tmp with a name that
    anyone can foresee, and what lies there is run as code.

    Raises:
        Misconfigured: another user owns it, all can write to it, or it can't be made.
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
    """The first line that says something, and the error's kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
