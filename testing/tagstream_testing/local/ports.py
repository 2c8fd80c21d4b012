"""Loopback ports that stay ours between a stop and a restart."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

_LOWEST = 10_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """That many different ports of 127.0.0.1 which nothing listens on now.

    They lie below the range that the kernel gives to outgoing connections. Otherwise a client that retries a stopped
    server could be given the server's own port, connect to itself, and keep the server from coming back.
    Another process may still take one before it is used; its binder has to try again.
    """
    with contextlib.ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            port = random.randrange(_LOWEST, _first_ephemeral())
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return found


def _first_ephemeral() -> int:
    try:
        first = int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768
    return first if first > _LOWEST + 1_000 else 65_536
