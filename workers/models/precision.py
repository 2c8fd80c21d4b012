"""Chooses a model's precision, batch and execution; checks its golden answers.

Precision is fixed, never guessed at start-up. `tuned` means the answer that was measured once for this bundle on this
device and stored in the state folder. Otherwise it is bf16 on CUDA and fp32 on a CPU, where bf16 can be
five times slower.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from workers.errors import Broken, Misconfigured
from workers.models.device import EXECUTIONS, PRECISIONS, Device, Execution, Precision

logger = logging.getLogger(__name__)

BATCHES = (1, 2, 4)
LONGEST_BATCH_S = 3.0
"""A batch that takes longer delays its images more than it saves."""

DRIFT: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 0.1, "int8": 0.15}
"""How far an output may lie from its golden one, as a share of the golden outputs' range."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """Measurements of one bundle on one device; of a bundle of several uses, for each."""

    digest: str
    use: str
    device: str
    precision: Precision
    max_batch: int
    execution: Execution


def resolve(wanted: str, digest: str, use: str, device: Device, state_dir: Path | None) -> Tuned:
    """The precision for TAGSTREAM_PRECISION, with its stored batch size and execution.

    These count only for the precision that they were measured in; else the execution is the device's, and the batch
    size 0: still to be found out. Raises Misconfigured: an unknown word.
    """
    if wanted != "tuned" and wanted not in PRECISIONS:
        raise Misconfigured(f"TAGSTREAM_PRECISION is {wanted!r}; it may be tuned, {', '.join(PRECISIONS)}.")
    tuned = stored_tuning(digest, use, device, state_dir)
    if tuned and wanted in ("tuned", tuned.precision):
        return tuned
    if wanted == "tuned":
        wanted = "bf16" if device.kind == "cuda" else "fp32"
        logger.warning(
            "the model is not tuned for %s: running in %s; `tagstream models tune` finds the fastest precision",
            device.name,
            wanted,
        )
    return Tuned(digest, use, device.name, cast("Precision", wanted), 0, device.execution)


def stored_tuning(digest: str, use: str, device: Device, state_dir: Path | None) -> Tuned | None:
    """The bundle's stored tuning on this device, or None."""
    if state_dir is None:
        return None
    try:
        stored = from_json(_tuned_path(digest, use, device, state_dir).read_bytes())
        tuned = Tuned(**{"execution": device.execution, **stored})  # files of earlier versions lack it
        ours = (tuned.digest, tuned.use, tuned.device) == (digest, use, device.name)
        known = tuned.precision in PRECISIONS and tuned.execution in EXECUTIONS
        return tuned if ours and known and tuned.max_batch >= 1 else None
    except (OSError, ValueError, TypeError):
        return None


def remember_tuned(tuned: Tuned, device: Device, state_dir: Path) -> None:
    """Store a tuning, atomically."""
    path = _tuned_path(tuned.digest, tuned.use, device, state_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".tuned-", delete=False) as file:
        json.dump(asdict(tuned), file, indent=1)
    os.replace(file.name, path)


def settle_batch(forward: Callable[[int], object], *, clock: Callable[[], float] = time.perf_counter) -> int:
    """The largest of `BATCHES` that fits in memory and in `LONGEST_BATCH_S`.

    A start waits for this, so no more is run than it takes: the largest batch first, and once one has fitted its pace
    tells how long the smaller ones take.

    Args:
        forward: runs a batch of that many images to its end. It has run before: the first run of all is slower.

    Raises:
        Broken: not even one image fits.
    """
    for largest in reversed(BATCHES):
        started = clock()
        try:
            forward(largest)
        except MemoryError as error:
            why = str(error)  # the error itself would keep what did fit
        else:
            took_s = clock() - started
            quick = [size for size in BATCHES if size <= largest and size * took_s / largest < LONGEST_BATCH_S]
            return max(quick, default=1)
    raise Broken(f"The device has no memory for a single image: {why}")


def check_golden(name: str, precision: Precision, expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Compare a model's answers to the golden images with the stored ones; returns the drift (see `DRIFT`).

    Raises Broken: they differ by more than the precision explains.
    """
    span = float(np.ptp(expected)) or 1.0
    drift = float(np.abs(found - expected).max(initial=0.0)) / span if found.shape == expected.shape else float("inf")
    if not drift <= DRIFT[precision]:  # written so that a NaN fails
        raise Broken(
            f"{name} in {precision} does not give its golden answers (off by {drift:.2g} of their range, "
            f"{DRIFT[precision]:.2g} is allowed): damaged weights, or a device that computes wrongly."
        )
    return drift


def check_batches(
    name: str,
    precision: Precision,
    expected: NDArray[np.float32],
    answers: Callable[[list[int]], NDArray[np.float32]],
    sizes: Sequence[int],
) -> None:
    """`check_golden` in batches of these sizes, while they fit in memory.

    Work will find smaller ones. Raises Broken: as `check_golden`.
    """
    for size in sizes:
        places = [row % len(expected) for row in range(size)]
        try:
            found = answers(places)
        except MemoryError:
            return
        check_golden(f"{name}, in batches of {size},", precision, expected[places], found)


def _tuned_path(digest: str, use: str, device: Device, state_dir: Path) -> Path:
    slug = re.sub(r"[^A-Za-z0-9]+", "-", device.name).strip("-")
    return state_dir / "tuned" / f"{digest[:16]}-{use}-{slug}.json"
