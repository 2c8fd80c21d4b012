"""What Linux tells about other processes, read from /proc."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_LISTEN = "0A"


def lives(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def survivors(pids: Iterable[int], within_s: float = 5.0) -> list[int]:
    """Those that still live, after they were given that long to end."""
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
    """The processes whose parent it is."""
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(parent) == pid:
                found.append(int(entry.name))
    return found


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
