"""What a child does: GETs in threads, and one picture at a time in a decoder's hands.

Before bytes are given to a decoder, for their header or for their pixels, their ticket is put into the region's mark.
So whatever happens next, and however, everybody knows which picture it happened to.
"""

from __future__ import annotations

import os
import resource
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from opentelemetry.util.types import AttributeValue

from schemas.image_event import ImageEvent
from workers import metrics
from workers.errors import Broken, Rejected, TagstreamError
from workers.intake.limits import Limits
from workers.intake.processes.channel import Message, receive, send
from workers.intake.processes.slab import Grant, Layout, Region
from workers.intake.stages import Stages
from workers.ports import ObjectStore

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a child needs to know. It is pickled, and so are the parts of it.

    Args:
        store: makes the child's own connection to the objects.
        fetch_threads: GETs at the same time in one child.
        decode_memory_bytes: what a decoder may allocate for one picture.
    """

    store: Callable[[], ObjectStore]
    layout: Layout
    limits: Limits
    fetch_threads: int
    decode_memory_bytes: int


Counts: TypeAlias = list[tuple[str, float, dict[str, AttributeValue]]]


class Tally:
    """What is counted in this process, kept until the parent is told: only it has an endpoint. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, tuple[tuple[str, AttributeValue], ...]], float] = {}

    def hear(self, counter: str, amount: float, labels: Mapping[str, AttributeValue]) -> None:
        """A listener of `metrics.tell`."""
        with self._lock:
            key = counter, tuple(labels.items())
            self._counts[key] = self._counts.get(key, 0) + amount

    def take(self) -> Counts:
        """What came since the last call."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return [(counter, amount, dict(labels)) for (counter, labels), amount in counts.items()]


def serve(sock: socket.socket, slab: int, place: int, plan: Plan) -> None:
    """Answer orders until the parent lets go of the socket."""
    region = Region(slab, plan.layout, place)
    os.close(slab)
    tally = Tally()
    metrics.tell(tally.hear)
    try:
        stages = Stages(plan.store(), plan.layout.transforms, plan.limits)
    except Exception as error:  # noqa: BLE001  # whatever it is, the parent has to hear of it
        send(sock, ("useless", 0, _portable(error)))
        return
    send(sock, ("ready", 0))
    _Child(sock, region, stages, tally, plan).run()


class _Child:
    def __init__(self, sock: socket.socket, region: Region, stages: Stages, tally: Tally, plan: Plan) -> None:
        self._socket = sock
        self._region = region
        self._stages = stages
        self._tally = tally
        self._memory_bytes = plan.decode_memory_bytes + 2 * plan.fetch_threads * plan.limits.max_object_bytes
        self._sending = threading.Lock()
        self._codec = threading.Lock()
        self._fetchers = ThreadPoolExecutor(plan.fetch_threads, "tagstream-fetch")
        self._decoder = ThreadPoolExecutor(1, "tagstream-decode")

    def run(self) -> None:
        while True:
            try:
                self._take(*receive(self._socket))  # in no variable, which would hold the bytes until the next come
            except (EOFError, OSError):
                os._exit(0)  # nobody is left who could be told anything

    def _take(self, message: Message, body: bytes) -> None:
        kind, ticket, *rest = message
        if kind == "fetch":
            self._fetchers.submit(self._answer, ticket, lambda: self._fetch(ticket, *rest))
        elif kind == "decode":
            self._decoder.submit(self._answer, ticket, lambda: self._decode(ticket, body, *rest))
        else:
            self._decoder.submit(self._answer, ticket, lambda: self._check(ticket, *rest))

    def _fetch(self, ticket: int, event: ImageEvent) -> tuple[Message, bytes]:
        facts, body = self._stages.read(event, self._marked(ticket))
        return ("fetched", ticket, facts), body

    def _decode(self, ticket: int, body: bytes, name: str, grant: Grant) -> tuple[Message, bytes]:
        with self._marked(ticket):
            try:
                self._region.write(grant.slot, self._stages.decode_bytes(body, name))
            except MemoryError:
                raise Rejected("decode", "decode-memory", "there is no memory to transform it") from None
        return ("decoded", ticket, grant), b""

    def _check(self, ticket: int, name: str | None) -> tuple[Message, bytes]:
        with self._marked(ticket):
            self._stages.check(name)
        return ("checked", ticket), b""

    def _answer(self, ticket: int, work: Callable[[], tuple[Message, bytes]]) -> None:
        try:
            message, body = work()
        except BaseException as error:  # noqa: BLE001  # the parent decides what becomes of it
            message, body = ("failed", ticket, _portable(error)), b""
        try:
            with self._sending:
                if counts := self._tally.take():
                    send(self._socket, ("counted", 0, counts))
                send(self._socket, message, body)
        except OSError:
            os._exit(0)

    @contextmanager
    def _marked(self, ticket: int) -> Iterator[None]:
        """One decoder at a time, known by its ticket, and bounded in what it may allocate."""
        with self._codec:
            self._region.mark = ticket
            _bound_memory(_data_bytes() + self._memory_bytes)
            try:
                yield
            finally:
                _bound_memory(None)
                self._region.mark = 0


def _bound_memory(size: int | None) -> None:
    """Private memory, not address space: threads and shared libraries reserve far more of that than they use."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = hard if size is None else size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def _data_bytes() -> int:
    with open("/proc/self/statm", "rb") as numbers:
        return int(numbers.read().split()[5]) * _PAGE


def _portable(error: BaseException) -> BaseException:
    """An error that can be sent: ours as they are, without frames, which can't travel; of others their whole story."""
    if isinstance(error, MemoryError):
        return MemoryError(str(error))
    if isinstance(error, TagstreamError):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    return Broken(f"the intake failed in a child process: {''.join(traceback.format_exception(error)).strip()}")
