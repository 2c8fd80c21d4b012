"""A decoder that an image has taken over: its attempts in the child process, and the report to the test."""

import ctypes
import errno
import gc
import json
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from PIL import ImageFile

from workers.intake.processes import sandbox
from workers.intake.processes.shared_memory import Region

TRIES, FORGES, KEEPS = 61, 62, 63
"""Widths of images: one whose decoder tries all attacks, one that forges an answer, one that harms all later images."""
_REPORT_BYTES = 1 << 16
_ANSWER = struct.Struct("<BQH")
_libc = ctypes.CDLL(None, use_errno=True)
_intact = ImageFile.ImageFile.load


class Report:
    """Results of attacks in a child, by name: None if refused."""

    def __init__(self, folder: Path) -> None:
        with (folder / "report").open("a+b") as file:
            file.truncate(_REPORT_BYTES)
            self._memory = mmap.mmap(file.fileno(), _REPORT_BYTES)

    def write(self, done: dict[str, str | None]) -> None:
        # overwrites an earlier result: an image is loaded more than once, and a later result may be shorter
        self._memory[:] = json.dumps(done).encode().ljust(_REPORT_BYTES, b"\0")

    def read(self) -> dict[str, str | None]:
        text = self._memory[:].rstrip(b"\0")
        found: dict[str, str | None] = json.loads(text)
        return found


def take_over(folder: Path, forgery: str = "", without: str = "") -> None:
    """To be called in a child before it is closed off."""
    report, parent, worker = Report(folder), os.getppid(), int((folder / "worker").read_text())
    if without:
        setattr(sandbox, f"_{without.lower()}", lambda: False)

    def load(image: ImageFile.ImageFile) -> Any:
        if image.width == TRIES:
            report.write(_tried(folder, parent, worker))
        elif image.width == FORGES:
            FORGERIES[forgery]()
        elif image.width == KEEPS:
            ImageFile.ImageFile.load = _crash_others  # type: ignore[method-assign, assignment]
        return _intact(image)

    ImageFile.ImageFile.load = load  # type: ignore[method-assign, assignment]


def _crash_others(image: ImageFile.ImageFile) -> Any:
    return _intact(image) if image.width == KEEPS else ctypes.string_at(0)


def _tried(folder: Path, fork_server: int, worker: int) -> dict[str, str | None]:
    deeds: dict[str, Callable[[], object]] = {
        "read its environment": lambda: dict(os.environ) or _refuse(),
        "read the file of a secret": lambda: (folder / "secret").read_text(),
        "read the worker's environment": lambda: Path(f"/proc/{worker}/environ").read_bytes(),
        "read the worker's memory": lambda: os.open(f"/proc/{worker}/mem", os.O_RDWR),
        "read the environment of its parent": lambda: Path(f"/proc/{fork_server}/environ").read_bytes(),
        "list a folder": lambda: os.listdir("/"),
        "write a file": lambda: (folder / "written").write_text("it was here"),
        "write an old file": lambda: (folder / "secret").write_text("it was here"),
        "remove a file": lambda: (folder / "secret").unlink(),
        "make a link": lambda: (folder / "link").symlink_to("/etc/passwd"),
        "open a TCP socket": lambda: socket.socket(socket.AF_INET),
        "connect by TCP": lambda: socket.create_connection(("127.0.0.1", 9), 1),
        "open a local socket": lambda: socket.socket(socket.AF_UNIX),
        "make a pair of sockets": socket.socketpair,
        "duplicate a descriptor": lambda: os.dup(0),
        "fork": _fork,
        "run a program": lambda: subprocess.run(["/bin/true"], check=True),
        "become a program": lambda: os.execv("/bin/true", ["true"]),
        "start a thread": lambda: threading.Thread(target=int).start(),
        "trace the worker": lambda: _call(101, 16, worker, 0, 0),
        "read another process": lambda: _call(310, worker, 0, 0, 0, 0, 0),
        "signal the worker": lambda: os.kill(worker, 0),
        "end its parent": lambda: os.kill(fork_server, signal.SIGTERM),
        "look at the worker's limits": lambda: resource.prlimit(worker, resource.RLIMIT_CPU),
        "raise its own limits": lambda: resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2),
        "make a file in memory": lambda: os.memfd_create("it"),
        "take shared memory": lambda: mmap.mmap(-1, 4 << 30),
        "map more of the shared memory": _map_more,
        "become another user": lambda: os.setuid(65534),
        "make namespaces": lambda: _call(272, 0x10000000),
        "set up io_uring": lambda: _call(425, 8, 0),
        "load a program into the kernel": lambda: _call(321, 0, 0, 0),
        "write to the worker's log": lambda: os.isatty(2) or _refuse(),
    }
    return {name: _done(deed) for name, deed in deeds.items()}


def _done(deed: Callable[[], object]) -> str | None:
    try:
        return repr(deed())[:200]
    except (OSError, LookupError, RuntimeError, MemoryError, ValueError, subprocess.SubprocessError):
        return None


def _refuse() -> object:
    raise PermissionError(errno.EPERM, "there is nothing")


def _fork() -> int:
    pid = os.fork()
    if not pid:
        os._exit(0)
    return pid


def _call(number: int, *arguments: int) -> int:
    call = _libc.syscall
    call.restype = ctypes.c_long  # for addresses
    found = int(call(number, *(ctypes.c_long(argument) for argument in arguments)))
    if found < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return found


def _pixels() -> Any:
    """The bytes that the child shares with the worker."""
    return _region()._bytes


def _map_more() -> str:
    """`mremap` its region to twice its length, wherever that fits; and back again, because it is in use."""
    pixels = _pixels()
    at, size = pixels.ctypes.data, pixels.nbytes
    granted = _call(25, at, size, 2 * size, 1)
    _call(25, granted, 2 * size, size, 3, at)
    return f"{2 * size} bytes"


def _region() -> Region:
    return next(each for each in gc.get_objects() if isinstance(each, Region))


def _say(*answers: bytes) -> None:
    """Write to the only descriptor that takes it: the socket that joins the child to the worker."""
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, b"".join(answers))
        except OSError:
            continue
        return


def _answer(code: int, request_id: int, payload: bytes = b"") -> bytes:
    return _ANSWER.pack(code, request_id, len(payload)) + payload


def _own() -> int:
    return _region().current_request


def _for_the_next() -> None:
    _say(_answer(2, _own() + 1))


def _twice() -> None:
    _say(_answer(2, _own()), _answer(2, _own()))


def _erase_and_die() -> None:
    _region().current_request = 0
    os._exit(1)


def _accuse_and_die() -> None:
    _region().current_request = _own() + 1
    os._exit(1)


def _scribble() -> None:
    pixels = _pixels()
    ctypes.memset(pixels.ctypes.data + pixels.nbytes, 255, 1 << 20)


FORGERIES: Final[dict[str, Callable[[], None]]] = {
    "an answer for the next image": _for_the_next,
    "an answer to no request": lambda: _say(_answer(2, 0)),
    "an answer to a request id of another child": lambda: _say(_answer(2, _own() + 1000)),
    "two answers": _twice,
    "garbage": lambda: _say(b"\x80\x05cos\nsystem\n(S'true'\ntR." * 10),
    "a huge length": lambda: _say(_ANSWER.pack(2, _own(), 0xFFFF), bytes(5000)),
    "a header instead of pixels": lambda: _say(_answer(1, _own(), struct.pack("<BIIQ", 1, 60, 20, 9))),
    "that it is ready, again": lambda: _say(_answer(0, 0, b"\0")),
    "a code that is none": lambda: _say(_answer(9, _own())),
    "a reason that is none": lambda: _say(_answer(3, _own(), b"\xff")),
    "that it can't begin": lambda: _say(_answer(4, 0, b"it is all over")),
    "that it was withdrawn": lambda: _say(_answer(6, _own())),
    "that it failed": lambda: _say(_answer(4, _own(), b"it is all over")),
    "that it had not begun": _erase_and_die,
    "that it was at another image": _accuse_and_die,
    "pixels outside its region": _scribble,
}
