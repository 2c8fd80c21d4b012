"""Pending requests of the process intake, and its children."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from workers.errors import Rejected
from workers.intake.header import sniff
from workers.intake.heap import freed
from workers.intake.limits import Limits
from workers.intake.processes import wire
from workers.intake.processes.fork_server import ForkServer
from workers.intake.processes.shared_memory import PLACE_BYTES, PLACES, Layout, Region, make_shared_memory
from workers.types import Fetched, Job, Partition

Loss: TypeAlias = Literal["death", "clock", "bad-answer"]
"""Cause of a child's end: its death, one image that took too long, or an invalid answer."""

_ANSWERS_TO: dict[
    wire.Kind, tuple[type[wire.Inspected | wire.Completed | wire.Refused | wire.Failed | wire.Withdrawn], ...]
] = {
    "inspect": (wire.Inspected, wire.Refused, wire.Failed, wire.Withdrawn),
    "decode": (wire.Completed, wire.Refused, wire.Failed, wire.Withdrawn),
    "check": (wire.Completed, wire.Failed, wire.Withdrawn),
}

_request_ids = itertools.count(1)
DOUBTED_S = 60.0
"""Answers of a child in these seconds before its death or its first invalid answer are doubted."""
_CHECK_S = 20.0
"""Time limit of a self-test image. Its failure ends the worker, so a slow machine has time."""

_BIRTH_S = 30.0
"""Time limit of a child's start."""
_MOST_UNCLAIMED = 5
"""Deaths before a waiting image counts as begun. The region names the current request, but a child that an image has
taken over may erase it."""

HESITATION_S = 1.0
"""After these seconds at one image a child loses its other requests, and gets no new ones until it is done."""
_MUCH_IN_HAND = PLACES * 3 // 4
"""With this many queued requests a child stays busy, so its answers are collected in batches."""
_ENOUGH_IN_HAND = 2
"""With this many queued requests a child never waits, if each answer is followed by a new request."""
LONG_S = 0.06
"""If a partition's last image took this long, a child gets at most `_ENOUGH_IN_HAND` of its requests."""
_SHORT_S = 0.01
"""A child gets a background request only if it has none, or one and images of that partition take less than this: live
requests come behind it."""
_AHEAD_BYTES = 2 * PLACE_BYTES
"""Most encoded bytes of a child's queue beyond `_ENOUGH_IN_HAND` requests: some 60 ms of work. Longer queues are better
shared among the children."""


@dataclass(eq=False, slots=True)
class PendingRequest:
    """One call's work, or a self-test on behalf of a suspect.

    Args:
        memory_bytes: by how much a child may grow for it.
        image: the image's job; None for a check without an image.
        fetched: the object of an inspection or a decode.
        body, format: the image; kept until it is done, so that a child's death loses no bytes.
        transforms: as of `Request`.
        suspect, verdict: of a self-test: the request that waits for it, and its rejection if the self-test passes.
        losses: children that died while they worked on this image.
        unclaimed: children that died with this request first in their queue and not named in their region.
    """

    kind: wire.Kind
    future: Future[Any]
    limit_s: float
    memory_bytes: int
    image: Job | None = None
    fetched: Fetched | None = None
    body: bytes = b""
    format: str | None = None
    transforms: int = 0
    suspect: PendingRequest | None = None
    verdict: Rejected | None = None
    losses: int = 0
    unclaimed: int = 0
    request_id: int = field(default_factory=lambda: next(_request_ids))

    @property
    def alone(self) -> bool:
        """Whether it needs a fresh child for itself alone.

        An earlier image may have taken a child over. So only a fresh child proves that an image kills its decoder, or
        that a decoder is broken.
        """
        return self.losses > 0 or self.kind == "check"

    @property
    def partition(self) -> Partition | None:
        return None if self.image is None else self.image.assignment.partition

    @property
    def background(self) -> bool:
        return self.image is not None and self.image.assignment.background

    @property
    def rank(self) -> int:
        """Priority in its partition: decodes first, since inspections wait for their memory."""
        return 0 if self.alone else 1 if self.kind == "decode" else 2

    def check(self, verdict: Rejected) -> PendingRequest:
        """A request to decode the self-test image before this image is rejected."""
        return PendingRequest(
            "check",
            self.future,
            max(_CHECK_S, self.limit_s),
            self.memory_bytes,
            image=self.image,
            format=self.format or sniff(self.body),
            suspect=self,
            verdict=verdict,
        )

    def done(self, answer: object) -> None:
        self._drop_bytes()
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(answer)

    def failed(self, error: BaseException) -> None:
        """Fail the call; for a check on behalf of an image, that image's call."""
        if self.suspect is not None:
            self.suspect.failed(error)
            return
        self._drop_bytes()
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def dropped(self) -> None:
        self._drop_bytes()
        self.future.cancel()
        self.future.set_running_or_notify_cancel()

    def _drop_bytes(self) -> None:
        """Drop the bytes before the future completes: its waiter frees them."""
        size, self.body = len(self.body), b""
        if self.kind == "decode":  # its `Fetched` has no bytes any more
            freed(size)


class Child:
    """The worker's side of a child, for the supervisor's thread alone.

    Requests run in FIFO order; the first in `in_hand` is running.

    Attributes:
        at: id of the running request at the last `watch`; 0: no request ran.
        at_s: seconds that it has run, or that the child has not been ready.
        took_s: seconds that the last answered request took.
        complaints: the read end of its standard error.
        words: the codec's last line there during the running request.
    """

    def __init__(
        self, place: int, pid: int, sock: socket.socket, complaints: int, region: Region, limits: Limits
    ) -> None:
        self.place = place
        self.pid = pid
        self.complaints = complaints
        self.words = ""
        self.channel = wire.Channel(sock, limits)
        self.ready = False
        self.fresh = True
        self.retiring = False
        self.region = region
        self.in_hand: dict[int, PendingRequest] = {}
        self.loss: Loss = "death"
        self.at = 0
        self.at_s = 0.0
        self.took_s = 0.0
        self._answered: deque[tuple[float, str]] = deque()
        self._began = 0.0
        self._queued_s: float | None = None
        self._places: dict[int, int] = {}
        self._withdrawn: set[int] = set()

    @property
    def first(self) -> PendingRequest | None:
        return next(iter(self.in_hand.values()), None)

    @property
    def began(self) -> tuple[Job | None, float]:
        """The job of its running request, and when that began."""
        return None if self.first is None else self.first.image, self._began

    @property
    def at_image(self) -> Job | str:
        """What it is at, for the log."""
        return self.began[0] or "no image"

    @property
    def has_suspect(self) -> bool:
        return any(each.alone for each in self.in_hand.values())

    @property
    def waits_for_us(self) -> bool:
        """Whether it may run out of requests before it answers."""
        return self.ready and len(self.in_hand) < _ENOUGH_IN_HAND

    @property
    def has_much(self) -> bool:
        """Whether it has requests for a while, at its pace."""
        return len(self.in_hand) >= _MUCH_IN_HAND and not self.hesitates

    @property
    def hesitates(self) -> bool:
        return self.ready and self.at_s >= HESITATION_S

    def may_take(self, seconds: float, partition: Partition | None) -> bool:
        """Whether it has an image of this partition that may take longer."""
        return any(each.limit_s > seconds and each.partition == partition for each in self.in_hand.values())

    def open_to(self, request: PendingRequest, expected_s: float = 0.0) -> bool:
        if not self.ready or self.retiring or self.hesitates or self._withdrawn:
            return False
        if request.alone:
            return self.fresh
        if self.has_suspect or len(self.in_hand) >= PLACES:
            return False
        if request.background:
            return len(self.in_hand) < (_ENOUGH_IN_HAND if expected_s < _SHORT_S else 1)
        if len(self.in_hand) < _ENOUGH_IN_HAND:
            return True
        ahead = sum(len(each.body) for each in self.in_hand.values())
        return expected_s < LONG_S and ahead + len(request.body) <= _AHEAD_BYTES

    def give(self, request: PendingRequest) -> None:
        self.fresh = False
        if not self.in_hand:
            self._began = time.monotonic()
        self.in_hand[request.request_id] = request
        place = next(number for number in range(PLACES) if number not in self._places.values())
        self._places[request.request_id] = place
        self.region.put(place, request.body if len(request.body) <= PLACE_BYTES else b"")
        self.channel.put(
            wire.Request(
                request.kind,
                request.request_id,
                request.format,
                place,
                request.memory_bytes,
                request.body,
                request.transforms,
            )
        )

    def withdraw(self) -> list[PendingRequest]:
        """Take back all requests but the first, in FIFO order.

        The child skips these; if it had just begun one, its answer is dropped.
        """
        if self._withdrawn:
            return []
        _, *behind = self.in_hand.values()
        self._withdrawn = {each.request_id for each in behind}
        for request_id in self._withdrawn:
            self.region.withdraw(self._places[request_id])
        return behind

    def has_lost(self, request: PendingRequest) -> bool:
        """Whether this unanswered request was taken back from the child."""
        return request.request_id in self._withdrawn

    def take_from(self, answer: wire.Answer) -> tuple[PendingRequest | None, int]:
        """Remove the answered request; returns it and its free place.

        The request is None if it was taken back. Raises Garbled: the answer does not fit the running request.
        """
        first = self.first
        if first is None or not isinstance(answer, _ANSWERS_TO[first.kind]) or answer.request_id != first.request_id:
            raise wire.Garbled("an answer to what it was not asked, or out of turn")
        lost = self.has_lost(first)
        if isinstance(answer, wire.Withdrawn) and not lost:
            raise wire.Garbled("it skips what it was to do")
        now = time.monotonic()
        self.took_s, self._began = now - self._began, now
        self._withdrawn.discard(first.request_id)
        del self.in_hand[first.request_id]
        if first.fetched is not None and not lost:
            self._answered.append((now, first.fetched.sha256))
            self.lately_answered(now)
        return None if lost else first, self._places.pop(first.request_id)

    def lately_answered(self, now: float) -> set[str]:
        """Hashes of the contents that it answered about in the last minute."""
        while self._answered and self._answered[0][0] < now - DOUBTED_S:
            self._answered.popleft()
        return {content for _, content in self._answered}

    def complained(self, answer: wire.Complained) -> None:
        """Keep the codec's line of the running request.

        Raises Garbled: another request is running, or it has a line already.
        """
        if self.first is None or answer.request_id != self.first.request_id or self.words:
            raise wire.Garbled("words about what it is not at, or once more")
        self.words = answer.words or "?"

    def watch(self, gap_s: float) -> float:
        """Update and return `at_s`; call it every `gap_s`.

        After `HESITATION_S` the time in which the child waits for a processor does not count, if the system shows it: a
        busy machine is no image's fault.
        """
        at = self.first.request_id if self.first is not None else 0
        if at != self.at or (not at and self.ready):
            self.at, self.at_s, self._queued_s = at, 0.0, None
            return 0.0
        self.at_s += max(0.0, gap_s - self._waited_s()) if self.hesitates else gap_s
        return self.at_s

    def _waited_s(self) -> float:
        """Seconds that the child waited for a processor since the last call."""
        try:
            queued_s = int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            return 0.0
        before, self._queued_s = self._queued_s, queued_s
        return 0.0 if before is None else queued_s - before

    @property
    def limit_s(self) -> float:
        """Seconds that its running request may take."""
        if not self.ready:
            return _BIRTH_S
        return self.first.limit_s if self.first is not None else float("inf")

    def suspect(self) -> PendingRequest | None:
        """The request that may have caused the loss: the running one, if it had begun."""
        first = self.first
        if first is None or self.has_lost(first):
            return None
        if self.loss == "bad-answer":
            return first
        if self.loss == "clock":  # the child finished the slow image and was killed at the next one
            return first if first.request_id == self.at else None
        if self.region.current_request == first.request_id:
            return first
        first.unclaimed += 1
        return first if first.unclaimed >= _MOST_UNCLAIMED else None

    def last_words(self, code: int) -> tuple[int, str]:
        """Unread lines of its codec, and why it was lost, for people."""
        lines, complaint = wire.last_words(self.complaints)
        return lines, wire.with_words(self._exit_description(code), complaint or self.words)

    def _exit_description(self, code: int) -> str:
        if self.loss == "bad-answer":
            return "the decoder's process said what no decoder says"
        if self.loss == "death":
            name = f"exit code {code}"
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
            return f"the decoder's process died: {name}"
        return f"no end after {self.limit_s:g} s" if self.ready else f"not ready after {_BIRTH_S:g} s"


def fork_child(fork_server: ForkServer, place: int, layout: Layout, limits: Limits) -> Child:
    """A new child with its socket, pipe and region. Errors as in `ForkServer.fork`."""
    ours, theirs = socket.socketpair()
    with theirs, contextlib.ExitStack() as given_up, contextlib.ExitStack() as given_away:
        given_up.callback(ours.close)
        shared = make_shared_memory(layout)
        given_away.callback(os.close, shared)
        complaints, stderr = wire.make_pipe()
        given_up.callback(os.close, complaints)
        given_away.callback(os.close, stderr)
        region = Region(shared, layout)
        pid = fork_server.fork(theirs, (complaints, stderr), shared)
        given_up.pop_all()  # the child has them
    return Child(place, pid, ours, complaints, region, limits)
