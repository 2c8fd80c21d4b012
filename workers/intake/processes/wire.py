"""Messages between worker and child: binary records over a socket, and a pipe for standard error.

A child decodes uploaded bytes, so its answers count as hostile: they are never unpickled, every length, range and
enumeration is checked, and a record has at most some hundred bytes. An answer names only its request; the worker alone
knows the image and the place of its pixels. The worker's side never blocks, the child's side always does.

A child's standard error is a pipe that never blocks, so unread text is bounded and the rest is dropped. The child
empties the pipe after each image, so each line belongs to one image; after a death the rest belongs to the last one.
"""

from __future__ import annotations

import io
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from schemas.dead_letter import Reason
from schemas.printable import printable
from workers.facts import pack_facts, unpack_facts
from workers.intake.header import DECODABLE, Header
from workers.intake.limits import Limits
from workers.intake.processes.sandbox import PROTECTIONS
from workers.intake.processes.shared_memory import PLACE_BYTES
from workers.types import PictureFacts

TEXT_BYTES = 160
"""Most bytes of a kept line; a dead letter keeps 200 characters."""

PIPE_BYTES = 1 << 16
"""Default capacity of a pipe."""


def make_pipe() -> tuple[int, int]:
    """A pipe for a child's standard error: read end, write end; neither blocks."""
    return os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)


def last_words(pipe: int) -> tuple[int, str]:
    """Empty the pipe: its number of lines, and the last one, fit for a log."""
    try:
        text = os.read(pipe, PIPE_BYTES)
    except OSError:  # nothing is in it
        return 0, ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return len(lines), printable(lines[-1][:TEXT_BYTES].decode("utf-8", "replace")) if lines else ""


def with_words(detail: str, words: str) -> str:
    """A detail, with the codec's own line behind it."""
    return f"{detail} ({words})" if words else detail


Kind: TypeAlias = Literal["inspect", "decode", "check"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

VERDICTS: Final[tuple[Reason, ...]] = (
    "not-an-image",
    "format-not-allowed",
    "broken-image",
    "too-many-pixels",
    "too-complex",
    "too-small",
    "decode-failed",
    "decode-memory",
)
"""The only reasons for a rejection that a child may give."""

_REQUEST = struct.Struct("<BQBBQIQ")
_ANSWER = struct.Struct("<BQH")
_READY, _INSPECTED, _REFUSED = struct.Struct("<B"), struct.Struct("<BIIQB"), struct.Struct("<B")
_COMPLAINED = struct.Struct("<I")
_TEXT_BYTES = 400
"""Most bytes of a detail; a dead letter keeps 200 characters."""
_PAYLOAD_BYTES = max(_INSPECTED.size, _REFUSED.size + _TEXT_BYTES)
_READ_BYTES = 4096
_MOST_DECODE_BYTES = 1 << 40


class Garbled(Exception):
    """The child sent an invalid answer: don't trust its memory."""


@dataclass(frozen=True, slots=True)
class Request:
    """Work for a child.

    Args:
        request_id: above 0.
        format: of the image; None: unknown, or (of a check) every allowed format.
        place: in the child's region, for the encoded bytes and the pixels.
        memory_bytes: by how much the child may grow for it.
        body: follows the request if it is too large for the place.
        transforms: of a decode, as `Layout.bits`.
    """

    kind: Kind
    request_id: int
    format: str | None
    place: int
    memory_bytes: int
    body: bytes
    transforms: int = 0


@dataclass(frozen=True, slots=True)
class Ready:
    """The child has begun. `lacks`: the protections that this kernel did not give it."""

    lacks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspected:
    request_id: int
    header: Header


@dataclass(frozen=True, slots=True)
class Completed:
    """A request is done. A decode: the pixels are in its place. A check: the image known to be good was decoded."""

    request_id: int
    facts: PictureFacts | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The image is not taken, as in `errors.Rejected` at the stage "decode"."""

    request_id: int
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A request was withdrawn before the child had begun it."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Another error. Request id 0: the child can't begin."""

    request_id: int
    detail: str


@dataclass(frozen=True, slots=True)
class Complained:
    """The codec wrote to standard error during this request; the answer follows."""

    request_id: int
    lines: int
    words: str


Answer: TypeAlias = Ready | Inspected | Completed | Refused | Failed | Complained | Withdrawn
_ANSWERS: Final = (Ready, Inspected, Completed, Refused, Failed, Complained, Withdrawn)


class Channel:
    """The worker's side of the socket to a child. For one thread.

    Args:
        sock: closed by `close`.
    """

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._limits = limits
        self._outbox: deque[memoryview] = deque()
        self._incoming = bytearray()
        self.ended = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        return bool(self._outbox)

    def put(self, request: Request) -> None:
        """Send as much as the socket takes; `flush` sends the rest."""
        self._outbox.append(memoryview(_packed(request)))
        if len(request.body) > PLACE_BYTES:
            self._outbox.append(memoryview(request.body))
        self.flush()

    def flush(self) -> None:
        try:
            while self._outbox:
                sent = self._socket.send(self._outbox[0])
                rest = self._outbox.popleft()[sent:]
                if rest:
                    self._outbox.appendleft(rest)
        except BlockingIOError:
            pass
        except OSError:  # the child died; its earlier answers can still be read
            self._outbox.clear()

    def take(self, *, dead: bool = False) -> Iterator[Answer]:
        """Yield every complete answer; sets `ended` at the end of the stream.

        Args:
            dead: whether the child is dead, so that the stream is complete.

        Raises:
            Garbled: an answer is invalid; ignore the child from then on.
        """
        got = b""
        while True:
            while (answer := self._next()) is not None:
                yield answer
            if 0 < len(got) < _READ_BYTES and not dead:
                return  # that was all there was
            try:
                got = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                got = b""
            if not got:
                self.ended = True
                return
            self._incoming += got

    def close(self) -> None:
        self._socket.close()

    def _next(self) -> Answer | None:
        if len(self._incoming) < _ANSWER.size:
            return None
        code, request_id, size = _ANSWER.unpack_from(self._incoming)
        if size > _PAYLOAD_BYTES:
            raise Garbled(f"an answer of {size} bytes")
        end = _ANSWER.size + size
        if len(self._incoming) < end:
            return None
        payload = bytes(self._incoming[_ANSWER.size : end])
        del self._incoming[:end]
        return _answer(code, request_id, payload, self._limits)


def _answer(code: int, request_id: int, payload: bytes, limits: Limits) -> Answer:
    """Parse an answer. Raises Garbled if it is invalid."""
    try:
        kind = _ANSWERS[code]
        if kind is Ready and not request_id:
            return Ready(_lacks(*_READY.unpack(payload)))
        if kind is Inspected:
            return Inspected(request_id, _header(limits, *_INSPECTED.unpack(payload)))
        if kind in (Completed, Withdrawn) and not payload:
            return kind(request_id)
        if kind is Completed and (facts := unpack_facts(payload, limits.facts)) is not None:
            return Completed(request_id, facts)
        if kind is Refused:
            return Refused(request_id, VERDICTS[payload[0]], _shown(payload[1:]))
        if kind is Failed:
            return Failed(request_id, _shown(payload))
        if kind is Complained and 0 < (lines := _COMPLAINED.unpack_from(payload)[0]) <= PIPE_BYTES:
            return Complained(request_id, lines, _shown(payload[_COMPLAINED.size :]))
    except (IndexError, struct.error):
        pass
    raise Garbled(f"no answer has the code {code}, the request id {request_id} and {len(payload)} bytes")


def _lacks(bits: int) -> tuple[str, ...]:
    if bits >> len(PROTECTIONS):
        raise Garbled(f"unknown protections: {bits}")
    return tuple(name for number, name in enumerate(PROTECTIONS) if bits >> number & 1)


def _header(limits: Limits, format_code: int, width: int, height: int, decode_bytes: int, pixel_bytes: int) -> Header:
    """A child's header of an image. Raises Garbled if the limits forbid it."""
    name = DECODABLE[format_code]
    pixels = width * height
    small_enough = pixels <= limits.max_pixels and pixel_bytes * pixels <= decode_bytes <= _MOST_DECODE_BYTES
    if name not in limits.formats or min(width, height) < max(1, limits.min_side) or not small_enough:
        raise Garbled(f"a header over the limits: {name}, {width} × {height}, {decode_bytes} bytes")
    return Header(name, width, height, "", decode_bytes, pixel_bytes)


def _shown(text: bytes) -> str:
    """A child's text, fit for a log and a dead letter."""
    return "".join(sign if sign.isprintable() else "?" for sign in text.decode("utf-8", "replace"))


def _packed(request: Request) -> bytes:
    code = KINDS.index(request.kind)
    name = 0 if request.format is None else 1 + DECODABLE.index(request.format)
    size = len(request.body)
    return _REQUEST.pack(code, request.request_id, name, request.place, request.memory_bytes, size, request.transforms)


# ---- the child's side -----------------------------------------------------------------------------------------------


def send(sock: socket.socket, answer: Answer) -> None:
    """Send a record whole."""
    payload = _payload(answer)
    request_id = 0 if isinstance(answer, Ready) else answer.request_id
    sock.sendall(_ANSWER.pack(_ANSWERS.index(type(answer)), request_id, len(payload)) + payload)


def receive(sock: socket.socket, placed: Callable[[int, int], bytes]) -> Request:
    """The next request, whole.

    Args:
        placed: returns the encoded bytes of a place, from the place and their number.

    Raises:
        EOFError: the parent closed the socket.
    """
    code, request_id, name, place, memory_bytes, size, bits = _REQUEST.unpack(_filled(sock, _REQUEST.size))
    format_name = DECODABLE[name - 1] if name else None
    body = _filled(sock, size) if size > PLACE_BYTES else placed(place, size)
    return Request(KINDS[code], request_id, format_name, place, memory_bytes, body, bits)


def _filled(sock: socket.socket, size: int) -> bytes:
    """Receive exactly `size` bytes into one buffer."""
    if not size:
        return b""
    body = io.BytesIO()
    body.seek(size - 1)
    body.write(b"\0")  # makes room for all before it
    with body.getbuffer() as wanted:
        at = 0
        while at < size:
            got = sock.recv_into(wanted[at:])
            if got == 0:
                raise EOFError
            at += got
    return body.getvalue()


def _payload(answer: Answer) -> bytes:
    match answer:
        case Ready(lacks):
            return _READY.pack(sum(1 << number for number, name in enumerate(PROTECTIONS) if name in lacks))
        case Inspected(_, header):
            code = DECODABLE.index(header.format)
            return _INSPECTED.pack(code, header.width, header.height, header.decode_bytes, header.pixel_bytes)
        case Refused(_, reason, detail):
            return _REFUSED.pack(VERDICTS.index(reason)) + _cut(detail)
        case Failed(_, detail):
            return _cut(detail)
        case Complained(_, lines, words):
            return _COMPLAINED.pack(lines) + _cut(words)
        case Completed(_, facts):
            return b"" if facts is None else pack_facts(facts)
        case Withdrawn():
            return b""


def _cut(detail: str) -> bytes:
    return detail.encode("utf-8", "replace")[:_TEXT_BYTES]
