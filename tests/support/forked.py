"""Workers, indexers and commands forked from a process with all imports: 1.5 s of processor time less for each worker,
0.7 s for each command.

A forked process has its own session, environment, log, working folder, signals and exit code, no thread before the
fork, and ends with the tests. Tests of processes start theirs: those in tests/chaos, tests/unit/cli/test_run.py,
tests/integration/deploy and testing/.

`python -m tests.support.forked SOCKET` is the forking process, `Forker` its client.
"""

from __future__ import annotations

import array
import atexit
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from tagstream_testing.local.server import Process
from tagstream_testing.local.worker_process import WorkerProcess
from tests.support.ran import Ran

_ANY = ("TAGSTREAM_", "OTEL_", "PYTEST_")
"""How variables begin that libraries do not read while they are imported."""
_BEFORE = (
    "workers.cli.run",
    "workers.cli.one_worker",
    "workers.assembly.composition",
    "workers.models.compact",
    "workers.backends.result_cache",
    "workers.service.telemetry",
    "workers.service.http",
    "tagstream_index.cli",
    "tagstream_index.process",
)


class Forked:
    """The part of `subprocess.Popen` that a `Server` uses."""

    def __init__(self, keeper: socket.socket) -> None:
        self._keeper = keeper
        self.pid = self._told()
        assert self.pid > 0, "what forks has ended"
        self.returncode: int | None = None

    def _told(self) -> int:
        told = self._keeper.recv(4)
        return int.from_bytes(told, "little", signed=True) if told else -signal.SIGKILL

    def let_go(self) -> None:
        self._keeper.close()

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._keeper], [], [], 0)[0]:
            self.returncode = self._told()
            self.let_go()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not select.select([self._keeper], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, which: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, which)


class Forker:
    """The process that forks. The first call starts it, and it ends with this one."""

    def __init__(self) -> None:
        self._asking: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._environment: dict[str, str] | None = None

    def fork(
        self, arguments: Sequence[str], *, log: Path, errors: Path | None = None, env: Mapping[str, str], cwd: Path
    ) -> Forked | None:
        """`tagstream` with these arguments, its stderr in `errors` or `log`; None if its environment forbids a fork."""
        own = _of_libraries(env)
        other_packages = own.get("PYTHONPATH") != os.environ.get("PYTHONPATH")
        if other_packages or self._environment not in (None, own):
            return None
        log.touch()
        ours, theirs = socket.socketpair()
        message = {"argv": list(arguments), "files": [str(log), str(errors or log)], "env": dict(env), "cwd": str(cwd)}
        asked = json.dumps(message).encode()
        with self._lock, theirs:
            if self._asking is None:
                self._environment = own
                self._asking, self._process = _start(own)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))]
            self._asking.sendmsg([asked], rights)
        return Forked(ours)

    def close(self) -> None:
        if self._asking is not None and self._process is not None:
            self._asking.close()
            self._process.wait(20)


def _of_libraries(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(_ANY)}


def _start(environment: Mapping[str, str]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        return ours, subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], start_new_session=True)


_forker = Forker()
atexit.register(_forker.close)


def run_command(*arguments: object, **environment: str) -> Ran:
    """Run `tagstream` with these arguments, and these settings alone, in a forked process to its end."""
    words = [str(each) for each in arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TAGSTREAM_", "OTEL_"))}
    with TemporaryDirectory() as folder:
        out, errors = Path(folder, "out"), Path(folder, "errors")
        process = _forker.fork(words, log=out, errors=errors, env=inherited | environment, cwd=Path.cwd())
        assert process is not None, "another environment than this process's"
        try:
            code = process.wait(300)
        finally:
            process.let_go()
        return Ran(code, out.read_text(), errors.read_text())


class MayFork(WorkerProcess):
    """A worker that is forked where `forks` is set, unless values are tuned before the product is imported."""

    forks: ClassVar[bool] = False

    def spawn(self) -> Process:
        command, environment = self.command(), self.environment()
        if self.forks and command[1:3] == ["-m", "workers"]:
            made = _forker.fork(command[3:], log=self.log, env=environment, cwd=self.working_folder())
            if made is not None:
                return made
        return super().spawn()


def serve(asked: socket.socket) -> None:
    """Fork a process for each message. Returns in each of these, when it is to run its command."""
    import gc
    from importlib import import_module

    gc.disable()
    for name in _BEFORE:
        import_module(name)
    gc.freeze()
    gc.enable()
    assert len(os.listdir("/proc/self/task")) == 1, "a module starts a thread, which a fork would lose"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no one asks what became of a keeper
    while True:
        message, descriptors, _, _ = socket.recv_fds(asked, 1 << 20, 1)
        if not message:
            os._exit(0)
        with socket.socket(fileno=descriptors[0]) as client:
            if os.fork() == 0:
                asked.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                pid = os.fork()
                if pid:
                    _keep(pid, client)
                break
    _become(**json.loads(message))


def _keep(pid: int, client: socket.socket) -> None:
    """Tell the client the process id and then the exit code; the process is killed when the client is gone."""
    client.sendall(pid.to_bytes(4, "little", signed=True))
    ends = select.poll()
    process = os.pidfd_open(pid)
    ends.register(process, select.POLLIN)
    ends.register(client, select.POLLRDHUP)
    if process not in dict(ends.poll()):
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        client.sendall(code.to_bytes(4, "little", signed=True))
    finally:
        os._exit(0)


def _become(argv: list[str], files: list[str], env: dict[str, str], cwd: str) -> None:
    os.setsid()
    for number, path in enumerate((os.devnull, *files)):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv[1:] = argv


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _asked:
        serve(_asked)
    runpy.run_module("workers", run_name="__main__", alter_sys=True)
