from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tagstream_testing.local.ports import free_ports


def test_the_ports_are_different_and_free() -> None:
    found = free_ports(8)
    assert len(set(found)) == 8
    for port in found:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_a_port_that_something_listens_on_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free = free_ports(2)
    drawn = iter([taken, taken, free])
    monkeypatch.setattr("random.randrange", lambda *_: next(drawn))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", taken))
        listener.listen()
        assert free_ports(1) == [free]


def test_a_port_is_never_one_that_an_outgoing_connection_could_be_given() -> None:
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(free_ports(100)) < first_ephemeral
