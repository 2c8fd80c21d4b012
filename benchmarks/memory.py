"""The most memory that something takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from workers.models.device import Device

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Peak:
    """Filled in when the `with` block ends; bytes, or None if the system does not tell."""

    bytes: int | None = None


@contextmanager
def peak(device: Device) -> Iterator[Peak]:
    """On CUDA what tensors took there; on a CPU this process's resident memory, weights that are mapped included."""
    found = Peak()
    if device.kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield found
        found.bytes = torch.cuda.max_memory_allocated()
        return
    if _CLEAR.exists():
        _CLEAR.write_text("5")  # begins the count anew
    yield found
    if _STATUS.exists():
        found.bytes = next(
            (1024 * int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM")), None
        )
