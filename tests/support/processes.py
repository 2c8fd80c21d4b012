"""What Linux tells about other processes: their files and threads, and how much memory a family takes."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

_PROC = Path("/proc")
_LISTEN = "0A"


def lives(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def survivors(pids: Iterable[int], within_s: float = 5.0) -> list[int]:
    """The processes that are alive after this time."""
    left = list(pids)
    deadline = time.monotonic() + within_s
    while (left := [pid for pid in left if lives(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def with_environment(name: str, value: str) -> list[int]:
    """The processes that were started with this variable: a whole family, however its members were orphaned since."""
    wanted = f"{name}={value}".encode()
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if wanted in variables:
                found.append(int(entry.name))
    return found


def children(pid: int) -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit() and _parent(entry) == pid]


def listening(pid: int) -> set[tuple[str, int]]:
    """The (address, port) pairs on which the process accepts TCP connections."""
    ours = {inode for link in (_PROC / str(pid) / "fd").iterdir() if (inode := _socket_inode(link))}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in (_PROC / str(pid) / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and fields[9] in ours:
                found.add(_address(fields[1]))
    return found


def _socket_inode(link: Path) -> str | None:
    try:
        found = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()))
    except FileNotFoundError:
        return None
    return found.group(1) if found else None


def _address(text: str) -> tuple[str, int]:
    """`0100007F:1F90` → ("127.0.0.1", 8080). Of an IPv6 address the last four bytes (an IPv4 one is mapped there)."""
    host, port = text.split(":")
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(host[-8:]))), int(port, 16)


_EVERY_S = 0.1
_LOOKS = 10
_EXPLAINED = 0.05
Floats: TypeAlias = NDArray[np.float64]


def family(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (parent := _parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a worker and its descendants hold. A page that several share (forked ones do) counts once
    in all (PSS). Pages of files do not count: the system may drop them, and of a library's pages each process has the
    more the fewer others run that map it."""
    return sum(_share(each) for each in family(pid))


def _parent(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _share(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


class Watched:
    """Samples a family's memory every 100 ms inside the `with` block: `peak`, and `idle` at its start, in bytes."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.idle = self.peak = resident(pid)
        self.samples = 0

    @property
    def growth(self) -> int:
        return self.peak - self.idle

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_EVERY_S):
            self.peak = max(self.peak, resident(self._pid))
            self.samples += 1


class Growth:
    """The growth of a family's memory per finished image (`done`), measured at rest."""

    def __init__(self, pid: int, done: Callable[[], float]) -> None:
        self._pid = pid
        self._done = done
        self.samples: list[tuple[float, int]] = []
        """(images done, bytes)."""

    def note(self) -> tuple[float, int]:
        """Images done, and bytes held: the least of ten in a second, as a poll or a commit may be under way."""
        looks = []
        for _ in range(_LOOKS):
            looks.append(resident(self._pid))
            time.sleep(_EVERY_S)
        self.samples.append((self._done(), min(looks)))
        return self.samples[-1]

    def mb_per_10_000(self) -> float:
        """Megabytes per 10,000 images: the slope of the best line.

        The line may step up once, if the step explains nearly all the growth or memory falls but for it: Python keeps
        the room of its peak, which may come after the first sample. Steady growth is found.
        """
        done, held = (np.array(column, np.float64) for column in zip(*self.samples, strict=True))
        number = np.arange(len(done))
        straight = _Line.through(done / 10_000, held / 1e6)
        stepped = [_Line.through(done / 10_000, held / 1e6, number >= at) for at in number[1:] if len(number) >= 5]
        best = min((line for line in stepped if line.step > 0), key=lambda line: line.missed, default=straight)
        return best.slope if best.slope < 0 or best.missed < _EXPLAINED * straight.missed else straight.slope


@dataclass(frozen=True)
class _Line:
    """The one with the least squares; `missed` is their sum."""

    slope: float
    step: float
    missed: float

    @classmethod
    def through(cls, x: Floats, y: Floats, behind_step: NDArray[np.bool_] | None = None) -> _Line:
        columns = np.column_stack([x, np.ones_like(x), *([] if behind_step is None else [behind_step])])
        factors = np.linalg.lstsq(columns, y)[0]
        missed = float(np.sum((columns @ factors - y) ** 2))
        return cls(float(factors[0]), float(factors[2]) if behind_step is not None else 0.0, missed)
