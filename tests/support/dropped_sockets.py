"""A pytest plugin: kafka-python's sockets close without a warning when they are collected."""

import socket

from kafka.net.inet import KafkaNetSocket


class Dropped(socket.socket):
    """Closed at the latest when it is collected."""

    def __del__(self) -> None:
        self.close()


def _make(_: KafkaNetSocket, family: int = -1, kind: int = -1, protocol: int = -1) -> socket.socket:
    return Dropped(family, kind, protocol)


KafkaNetSocket.socket = _make
