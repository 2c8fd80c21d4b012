"""A server with forged cache values, or a failing one: every question gets another answer."""

import contextlib
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

import orjson

Command = list[bytes]
Lie = Callable[[Command], Iterator[bytes]]
"""Pieces of an answer to a command. It may pause between them, and may be endless."""


def _asked(command: Command) -> int:
    """How many values an honest server would answer."""
    return int(command[2])


def forged(value: bytes) -> Lie:
    """As many values as requested, each this one."""

    def lie(command: Command) -> Iterator[bytes]:
        yield b"*%d\r\n" % _asked(command) + b"$%d\r\n%b\r\n" % (len(value), value) * _asked(command)

    return lie


def says(answer: bytes) -> Lie:
    return lambda command: iter((answer,))


def is_silent(command: Command) -> Iterator[bytes]:
    time.sleep(30)
    yield b""


def _facts(**wrong: object) -> bytes:
    facts: dict[str, object] = {
        "sha256": "a" * 64, "etag": "e", "version_id": None, "last_modified": "2026-01-02T03:04:05Z", "size": 10,
        "format": "jpeg", "width": 4, "height": 4, "decode_bytes": 64,
    }  # fmt: skip
    return orjson.dumps(facts | wrong)


LIES: dict[str, Lie] = {
    "scores of 7.5": forged(b"tss1\1\0\0\0\0\0\0\0" + b"\0\0\xf0\x40"),
    "scores that are no numbers": forged(b"tss1\1\0\0\0\0\0\0\0" + b"\0\0\xc0\x7f"),
    "scores of labels that are not": forged(b"tss1\1\0\0\0\xff\xff\xff\x7f" + b"\0\0\0\x3f"),
    "a width of -1": forged(_facts(width=-1)),
    "a bad date": forged(_facts(last_modified="yesterday")),
    "a hash that is none": forged(_facts(sha256="../../x")),
    "huge numbers": forged(_facts(size=2**63, decode_bytes=-5)),
    "a caption with escapes": forged(orjson.dumps({"text": "\x1b[2J", "score": None, "method": "template"})),
    "a caption of wrong types": forged(orjson.dumps({"text": 7, "score": "x", "method": []})),
    "a sequencer of f": forged(b"f" * 128),
    "deep JSON": forged(b"[" * 100_000),
    "no JSON": forged(b"\xff\xfe\0"),
    "empty values": forged(b""),
    "an error": says(b"-ERR " + b"x" * 1_000 + b"\r\n"),
    "nothing": is_silent,
    "the end": says(b""),
}


class LyingRedis:
    """Tells the truth about PING and little else. `told` counts the lies by name, each in turn."""

    def __init__(self, lies: dict[str, Lie]) -> None:
        self._turns = itertools.cycle(lies.items())
        self._lock = threading.Lock()
        self.told: Counter[str] = Counter()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as asked:
            while command := _command(asked):
                for piece in self._answer(command):
                    connection.sendall(piece)
                if command[0].upper() == b"EVALSHA" and self._ends():
                    return

    def _ends(self) -> bool:
        """After a lie the connection is of no use: the next question comes on another."""
        return True

    def _answer(self, command: Command) -> Iterator[bytes]:
        match command[0].upper():
            case b"PING":
                return iter((b"+PONG\r\n",))
            case b"EVALSHA":
                with self._lock:
                    name, lie = next(self._turns)
                    self.told[name] += 1
                return lie(command)
            case _:
                return iter((b"+OK\r\n",))


def _command(asked: object) -> Command:
    readline: Callable[[], bytes] = asked.readline  # type: ignore[attr-defined]
    read: Callable[[int], bytes] = asked.read  # type: ignore[attr-defined]
    head = readline()
    if not head:
        return []
    words: Sequence[bytes] = [read(int(readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))]
    return list(words)
