"""The process that children are forked from, and our handle on it.

The worker has threads, so it must not fork. It starts one clean interpreter with one thread, which imports the
children's modules once and forks a child in milliseconds. As the children's parent it knows for sure that a child is
dead; only then another child gets its place. It holds no secret that a child could inherit: its environment is empty,
and its plan has no setting.

No process outlives the worker: the kernel kills the fork server when the thread that started it ends, and the
children when the fork server ends.
"""

from __future__ import annotations

import errno
import gc
import importlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress

from PIL import Image

from workers.errors import Broken
from workers.intake.decoding import Decoding
from workers.intake.processes.child import ChildPlan, serve
from workers.intake.processes.sandbox import harden
from workers.tied import tie_to

_START_S = 120.0
_REPLY_S = 20.0
_LARGEST_PLAN = 1 << 16
_INHERITED = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")
"""Environment variables that an interpreter may need to start. It drops them before it forks."""
_ITS_OWN = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 20),
}
"""By default glibc serves blocks of up to 32 MiB from heaps that return little. A child returns blocks of 4 MiB and
more to the system at once; for smaller ones fresh pages would cost some 15 % of decoding an image."""
_IMPORTED_LATE = ("ExifTags", "ImageCms", "ImageColor", "ImageOps", "ImagePalette", "ImageSequence", "MpoImagePlugin")
"""Modules of Pillow that it imports when it first needs them, which a child that is closed off can't."""
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from workers.intake.processes.fork_server import main
main(*map(int, sys.argv[2:]))
"""


class ForkServerLost(Exception):
    """The fork server is dead or does not answer; with it go all children and the shared memory."""


class ForkServer:
    """Forks and reaps children. Start it from a thread that lives as long as it should.

    Raises:
        ForkServerLost: it did not start.
        OSError: the system has no room for another process, or we have no descriptors left.
    """

    def __init__(self, plan: bytes, stopping: Callable[[], bool]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, ExitStack() as on_error:
            on_error.callback(self._control.close)
            numbers = [str(theirs.fileno()), str(os.getpid())]
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), *numbers],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a Ctrl-C at the terminal is for us alone: we end the children in order
                env={name: os.environ[name] for name in _INHERITED if name in os.environ} | _ITS_OWN,
            )
            on_error.pop_all()
        try:
            self._control.send(plan)
            self._wait(_START_S, stopping)
        except (OSError, ForkServerLost) as error:
            self.close()
            raise ForkServerLost("the decoders' fork server does not start") from error

    def fork(self, child_end: socket.socket, complaints: tuple[int, int], shared: int) -> int:
        """A new child; answers its process id.

        Raises:
            ForkServerLost: there is no fork server any more.
            OSError: the system has no room for another process now.
        """
        pid = self._ask("fork 0", child_end.fileno(), *complaints, shared)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid

    def reap(self, pid: int) -> int:
        """Kill the child unless it is dead already; once this returns, it is. Answers its exit code, -N for signal N.

        Raises ForkServerLost: there is no fork server any more, and its children die with it.
        """
        return self._ask(f"reap {pid}")

    def close(self) -> None:
        """End the fork server, and with it every child. Bounded in time."""
        self._control.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, question: str, *descriptors: int) -> int:
        try:
            socket.send_fds(self._control, [question.encode()], descriptors)
            return int(self._wait(_REPLY_S, lambda: False))
        except (OSError, ValueError) as error:
            raise ForkServerLost(str(error)) from error

    def _wait(self, seconds: float, stopping: Callable[[], bool]) -> bytes:
        self._control.settimeout(0.1)
        for _ in range(int(seconds * 10)):
            try:
                reply = self._control.recv(64)
            except TimeoutError:
                if stopping():
                    break
                continue
            if reply:
                return reply
            break
        raise ForkServerLost("the decoders' fork server does not answer")


def main(control_fd: int, parent: int) -> None:
    """The fork server's main loop. Ends when the other end of `control_fd` is closed."""
    tie_to(parent)
    for request in (signal.SIGTERM, signal.SIGINT):  # meant for the parent, which drains and then ends us
        signal.signal(request, signal.SIG_IGN)
    control = socket.socket(fileno=control_fd)
    plan: ChildPlan = pickle.loads(control.recv(_LARGEST_PLAN))
    harden()
    decoding = _warm(plan)
    gc.freeze()  # so that children keep sharing these pages
    control.send(b"0")
    while True:
        question, descriptors, _, _ = socket.recv_fds(control, 64, 4)
        if not question:
            return
        word, number = question.decode().split()
        answer = _fork(descriptors, control, plan, decoding) if word == "fork" else _reap(int(number))
        control.send(str(answer).encode())


def _warm(plan: ChildPlan) -> Decoding:
    """Import and make what decoders need, once for all children."""
    Image.init()
    for name in _IMPORTED_LATE:
        importlib.import_module(f"PIL.{name}")
    decoding = Decoding(plan.layout.transforms, plan.limits, plan.reducing_gap)
    with suppress(Broken):  # a child says so when it is asked
        decoding.check(None)
    return decoding


def _fork(descriptors: list[int], control: socket.socket, plan: ChildPlan, decoding: Decoding) -> int:
    """The new child's process id, or the negative errno."""
    fork_server = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        pid = -(error.errno or errno.EAGAIN)
    if pid:
        for descriptor in descriptors:
            os.close(descriptor)
        return pid
    try:
        tie_to(fork_server)
        control.close()
        channel, complaints, stderr, shared = descriptors
        serve(socket.socket(fileno=channel), (complaints, stderr), shared, plan, decoding)
    finally:
        os._exit(1)


def _reap(pid: int) -> int:
    """Kill and reap a process; returns its exit code, which a kill after its death does not change."""
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
