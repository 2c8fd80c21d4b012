"""How many processors this process may use. In a container these can be fewer than the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def processors() -> int:
    """At least one: those that it may run on, or as many as its control groups give it the time of, rounded up.

    `docker run --cpus` and a limit of Kubernetes give time alone: a thread for each processor of the machine would use
    it up in a moment, and stand still until there is more.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([usable, *map(math.ceil, _limits())]))


def _limits() -> list[float]:
    """CPU limits of our control group and its parents (cgroup v2: cpu.max)."""
    try:
        own = next(line for line in _OWN.read_text().splitlines() if line.startswith("0::/")).removeprefix("0::/")
    except (OSError, UnicodeDecodeError, StopIteration):
        return []
    folder = _CGROUPS / own
    found = [_limit(each / "cpu.max") for each in (folder, *folder.parents) if each.is_relative_to(_CGROUPS)]
    return [limit for limit in found if limit is not None]


def _limit(file: Path) -> float | None:
    """A quota and a period, both in microseconds; "max" is no quota, as is what can't be read."""
    try:
        quota, period = file.read_text().split()
        return float(quota) / float(period) if quota != "max" else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
