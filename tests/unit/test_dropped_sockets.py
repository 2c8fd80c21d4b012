"""A socket that is left open fails a test, unless kafka-python made it (tests/support/dropped_sockets.py)."""

import gc
import socket
import warnings

import pytest
from kafka.net.inet import KafkaNetSocket


@pytest.mark.parametrize(("make", "warns"), [(KafkaNetSocket().socket, 0), (socket.socket, 1)])
def test_a_socket_is_collected_without_a_warning_only_if_it_is_kafkas(make: type[socket.socket], warns: int) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ResourceWarning)
        descriptor = make(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP).fileno()
        gc.collect()
    assert len(said) == warns
    with pytest.raises(OSError, match="Bad file descriptor"):
        socket.socket(fileno=descriptor)
