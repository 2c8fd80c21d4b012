"""One real server as a child process: started, watched, broken on purpose, and never left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Protocol, Self

from tagstream_testing.local.ports import free_ports
from workers.errors import TagstreamError

_TIED = Path(__file__).with_name("tied.py")
_PORT_TAKEN = re.compile(r"address (is )?already in use|cannot bind|bind\(|BindException", re.IGNORECASE)
_PORT_TRIES = 4
_POLL_S = 0.02

# The parent-death signal is sent when the *thread* that forked ends, so one thread that never ends forks for all.
_forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forker")


class CannotStart(TagstreamError):
    """A server did not come up; the text has its last log lines or the missing part."""


def spawn_tied(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program that is killed whenever this process ends.

    May be called from any thread.

    Its output is appended to `log`. It leads a session of its own, so a Ctrl-C at the terminal does not reach it:
    its starter decides when it stops.
    """

    def fork() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(_TIED), "KILL", str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    return _forker.submit(fork).result()


class Process(Protocol):
    """The interface of a server's process."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, which: int, /) -> None: ...


class Server(ABC):
    """A server on fixed loopback ports, with its data in one folder.

    `launch` and `wait` are apart so that several servers can come up side by side; `start` is both. After `stop` or
    `kill`, `start` brings it back on the same ports with the same data.
    """

    name: ClassVar[str]
    port_count: ClassVar[int] = 1
    ready_within_s: ClassVar[float] = 60.0
    stops_within_s: ClassVar[float] = 5.0
    """How long a polite stop may take before it is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / f"{self.name}.log"
        self.ports: list[int] = []
        self._process: Process | None = None
        self._has_been_up = False
        self._retired = False

    @abstractmethod
    def prepare(self) -> None:
        """Write the program's files for `ports`; run before each launch."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The program and its arguments."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it answers in its own protocol now. May raise OSError for "not yet"."""

    def environment(self) -> Mapping[str, str]:
        return os.environ

    def working_folder(self) -> Path:
        return self.folder

    def start(self) -> Self:
        self.launch()
        self.wait()
        return self

    def launch(self) -> None:
        """Begin to start; `wait` ends it."""
        if self.running:
            raise RuntimeError(f"{self.name} is running already")
        if self._retired:
            raise CannotStart(f"{self.name} was given up.")
        self.folder.mkdir(exist_ok=True)
        if not self.ports:
            self.ports = free_ports(self.port_count)
        self.prepare()
        self._process = self.spawn()

    def spawn(self) -> Process:
        """Its process, begun."""
        return spawn_tied(self.command(), log=self.log, env=self.environment(), cwd=self.working_folder())

    def wait(self) -> None:
        """Return when it answers. A port taken by another process is replaced, while it is unannounced.

        Raises:
            CannotStart: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + self.ready_within_s
        tries = 1
        while not self._answers():
            if not self.running:
                if self._has_been_up or tries == _PORT_TRIES or not _PORT_TAKEN.search(self.log_tail()):
                    raise CannotStart(self.complaint(f"ended with exit code {self.exit_code} while starting"))
                tries += 1
                self.ports = []
                self.launch()
            elif time.monotonic() > deadline:
                self.kill()
                raise CannotStart(self.complaint(f"did not answer within {self.ready_within_s:.0f} s"))
            time.sleep(_POLL_S)
        self._has_been_up = True

    def stop(self) -> None:
        """End it politely (SIGTERM), or after `stops_within_s` not."""
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(self.stops_within_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would; its data stays."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def retire(self) -> None:
        """Kill it for good: another thread that is about to start it fails."""
        self._retired = True
        self.kill()

    def restart(self) -> None:
        """Stop politely and start again on the same ports and data."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Hang it (SIGSTOP): connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one continue (SIGCONT)."""
        self._signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        """Whether its process lives (a frozen one does)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.running else None

    @property
    def exit_code(self) -> int | None:
        """The exit code of the last process; None before its end."""
        return None if self._process is None else self._process.poll()

    def log_tail(self, lines: int = 15) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _answers(self) -> bool:
        try:
            return self.running and self.is_ready()
        except OSError:
            return False

    def _signal(self, which: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(which)

    def complaint(self, what: str) -> str:
        """A sentence about it, with the last lines of its log."""
        tail = self.log_tail()
        return f"{self.name} {what}." + (f" Its log ends with:\n{tail}" if tail else " Its log is empty.")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "not running"
        return f"<{self.name} on {', '.join(map(str, self.ports)) or 'no port yet'}, {state}>"
