"""The process that children are forked from, and our handle on it.

Our own process has threads, so it must not fork. It starts one clean interpreter, which imports once what a child
needs, has one thread, and forks a child in milliseconds whenever asked to. It is the children's parent, so it is
also the one that can say truly that a child is dead: only then is the child's region used again.

Nobody outlives us: the nursery is killed by the kernel when the thread that started it ends, the children are when
the nursery ends.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

from PIL import Image

from workers.errors import Broken
from workers.intake.heap import give_back_large_blocks
from workers.intake.processes.child import Plan, serve

_PR_SET_PDEATHSIG = 1
_START_S = 120.0
_REPLY_S = 20.0
_LARGEST_PLAN = 1 << 16
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from workers.intake.processes.nursery import main
main(*map(int, sys.argv[2:]))
"""


class NurseryLost(Exception):
    """The nursery is dead or does not answer; with it go all children and the slab."""


class Nursery:
    """Forks and buries children. Start it from a thread that lives as long as it should.

    Args:
        plan: a pickled `Plan`.
        slab: the descriptor of the slab.
        stopping: asked while the nursery starts.

    Raises:
        NurseryLost: it did not start.
    """

    def __init__(self, plan: bytes, slab: int, stopping: Callable[[], bool]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            numbers = [str(theirs.fileno()), str(slab), str(os.getpid())]
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), *numbers],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), slab),
                start_new_session=True,  # a Ctrl-C at the terminal is for us alone: we end the children in order
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        try:
            self._control.send(plan)
            self._wait(_START_S, stopping)
        except (OSError, NurseryLost) as error:
            self.close()
            raise NurseryLost("the process that starts decoders does not start") from error

    def fork(self, place: int, child_end: socket.socket) -> int:
        """A new child for this place; answers its process id.

        Raises:
            NurseryLost: there is no nursery any more.
        """
        return self._ask(f"fork {place}", child_end.fileno())

    def bury(self, pid: int) -> int:
        """Kill the child unless it is dead already; once this returns, it is. Answers its exit code, -N for signal N.

        Raises:
            NurseryLost: there is no nursery any more, and its children die with it.
        """
        return self._ask(f"bury {pid}")

    def close(self) -> None:
        """End the nursery, and with it every child. Bounded in time."""
        self._control.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, question: str, *descriptors: int) -> int:
        try:
            socket.send_fds(self._control, [question.encode()], descriptors)
            return int(self._wait(_REPLY_S, lambda: False))
        except (OSError, ValueError) as error:
            raise NurseryLost(str(error)) from error

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
        raise NurseryLost("the process that starts decoders does not answer")


def main(control_fd: int, slab: int, parent: int) -> None:
    """The nursery's own life. Ends when the other end of `control_fd` is closed."""
    _tie_to(parent)
    for request in (signal.SIGTERM, signal.SIGINT):  # meant for the parent, which drains and then ends us
        signal.signal(request, signal.SIG_IGN)
    control = socket.socket(fileno=control_fd)
    plan: Plan = pickle.loads(control.recv(_LARGEST_PLAN))
    give_back_large_blocks()
    Image.init()
    gc.freeze()  # so that children share these pages for good
    control.send(b"0")
    while True:
        question, descriptors, _, _ = socket.recv_fds(control, 64, 1)
        if not question:
            return
        word, number = question.decode().split()
        answer = _fork(int(number), descriptors[0], control, slab, plan) if word == "fork" else _bury(int(number))
        control.send(str(answer).encode())


def _fork(place: int, channel: int, control: socket.socket, slab: int, plan: Plan) -> int:
    nursery = os.getpid()
    pid = os.fork()
    if pid:
        os.close(channel)
        return pid
    try:
        _tie_to(nursery)
        control.close()
        serve(socket.socket(fileno=channel), slab, place, plan)
    finally:
        os._exit(1)


def _bury(pid: int) -> int:
    """Killing a process that is dead or about to be does not change what it died of."""
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _tie_to(parent: int) -> None:
    """Be killed when the parent ends, in whatever way."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL)) != 0:
        raise Broken("this system can't tie a process to its parent")
    if os.getppid() != parent:
        os._exit(1)
