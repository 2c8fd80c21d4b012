"""A child's work: one image at a time, in one thread, in the order of the requests.

Before the child begins an image, it writes the request's id into the region. After a death the supervisor reads there
whether the image had begun.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from workers.errors import Rejected
from workers.intake.decoding import Decoding
from workers.intake.limits import MIB, Limits
from workers.intake.processes import wire
from workers.intake.processes.sandbox import close_off
from workers.intake.processes.shared_memory import Layout, Region

_PAGE = os.sysconf("SC_PAGE_SIZE")
_ROOM_BYTES = 128 * MIB
"""Memory of a child besides its image: bytes, and heaps that do not shrink."""


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """The settings of a child. They are pickled on their way down, and hold no secret.

    Args:
        prepare: called once in each child, before it is closed off: a function that can be imported, or a
            `functools.partial` of one. For decoders that Pillow does not bring.
    """

    layout: Layout
    limits: Limits
    reducing_gap: float = 0.0
    prepare: Callable[[], object] | None = None


def serve(sock: socket.socket, complaints: tuple[int, int], shared: int, plan: ChildPlan, decoding: Decoding) -> None:
    """Answer requests until the parent closes the socket.

    Args:
        complaints: a pipe's two ends; the second becomes standard error.
    """
    try:
        child = _Child(sock, complaints, shared, plan, decoding)
        lacks = child.close_off()
    except Exception as error:  # noqa: BLE001  # the parent must learn of any error
        wire.send(sock, wire.Failed(0, _words(error)))
        return
    wire.send(sock, wire.Ready(lacks))
    child.run()


class _Child:
    def __init__(
        self, sock: socket.socket, complaints: tuple[int, int], shared: int, plan: ChildPlan, decoding: Decoding
    ) -> None:
        self._socket = sock
        self._complaints, self._stderr = complaints
        self._region = Region(shared, plan.layout)
        self._decoding = decoding
        self._plan = plan
        self._numbers = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        if plan.prepare is not None:
            plan.prepare()

    def close_off(self) -> tuple[str, ...]:
        """Enter the sandbox before the first request; returns the protections that this kernel lacks."""
        plan = self._plan
        limits = plan.limits
        reading = max(limits.inspect_address_bytes(name, limits.max_object_bytes) for name in limits.formats)
        largest = max(limits.decode_bytes, reading)
        most = self._address_bytes() + largest + 2 * plan.limits.max_object_bytes + _ROOM_BYTES
        keep = (self._socket.fileno(), self._numbers, self._complaints)
        return close_off(keep, stderr=self._stderr, address_bytes=most)

    def run(self) -> None:
        while True:
            try:
                # a request in a variable would hold its bytes
                answer = self._answer(wire.receive(self._socket, self._region.get))
                lines, words = wire.last_words(self._complaints)
                if lines:
                    wire.send(self._socket, wire.Complained(answer.request_id, lines, words))
                wire.send(self._socket, answer)
            except (EOFError, OSError):
                os._exit(0)  # the parent is gone

    def _answer(
        self, request: wire.Request
    ) -> wire.Inspected | wire.Completed | wire.Refused | wire.Withdrawn | wire.Failed:
        if self._region.is_withdrawn(request.place):
            return wire.Withdrawn(request.request_id)
        try:
            with self._at(request):
                return self._do(request)
        except Rejected as error:
            return wire.Refused(request.request_id, error.reason, error.detail)
        except MemoryError:
            return wire.Refused(request.request_id, "decode-memory", "there is no memory to transform it")
        except BaseException as error:  # noqa: BLE001  # the parent decides
            return wire.Failed(request.request_id, _words(error))

    def _do(self, request: wire.Request) -> wire.Inspected | wire.Completed:
        if request.kind == "inspect":
            return wire.Inspected(request.request_id, self._decoding.inspect(request.body))
        if request.kind == "check":
            self._decoding.check(request.format)
            return wire.Completed(request.request_id)
        assert request.format is not None
        transforms = self._plan.layout.of_bits(request.transforms)
        image = self._decoding.decode(request.body, request.format, transforms)
        self._region.write(request.place, image)
        return wire.Completed(request.request_id, image.facts)

    @contextmanager
    def _at(self, request: wire.Request) -> Iterator[None]:
        """Note the image's request id, and bound its decoder's memory."""
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        self._region.current_request = request.request_id
        resource.setrlimit(resource.RLIMIT_AS, (min(hard, self._address_bytes() + request.memory_bytes), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            self._region.current_request = 0

    def _address_bytes(self) -> int:
        return int(os.pread(self._numbers, 100, 0).split()[0]) * _PAGE


def _words(error: BaseException) -> str:
    """An error and its place in one line; a stack of frames would be cut anyway."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno})" if trace is not None else ""
    return f"{type(error).__name__}: {error}{place}"
