"""Pending requests of the process intake, and the children that work on them."""

from __future__ import annotations

import itertools
import socket
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from workers.errors import Rejected
from workers.intake.formats import sniff
from workers.intake.heap import freed
from workers.intake.limits import Limits
from workers.intake.processes.shared_memory import PLACE_BYTES, PLACES, SLOTS, Region
from workers.intake.processes.wire import (
    Answer,
    Channel,
    Complained,
    Completed,
    Failed,
    Garbled,
    Inspected,
    Kind,
    Refused,
    Request,
)
from workers.types import Fetched, Job, LogFields

Loss: TypeAlias = Literal["death", "clock", "bad-answer"]
"""Why a child was given up: it died, it was at one image for too long, or it said what no child can say."""

_ANSWERS_TO: dict[Kind, tuple[type[Inspected | Completed | Refused | Failed], ...]] = {
    "inspect": (Inspected, Refused, Failed),
    "decode": (Completed, Refused, Failed),
    "check": (Completed, Failed),
}

_request_ids = itertools.count(1)

HESITATION_S = 1.0
"""A child that has been at one image for so long gets nothing new until it is done."""
_MOST_IN_HAND = PLACES
"""Requests that a child has before it, so that it never waits for us: headers are read in less time than we take to
hand out the next."""
_ENOUGH_IN_HAND = 2
"""With so many requests a child does not wait for us either, if it gets more when it has answered the first."""


@dataclass(eq=False, slots=True)
class PendingRequest:
    """One call's work, or a check on behalf of one.

    Args:
        limit_s: how long a child may be at it.
        memory_bytes: by how much a child may grow for it.
        image: the job whose image it is; None for a check that no image asked for.
        fetched: of an inspection.
        body, format: the image; kept until it is done, so that a child that dies takes no bytes with it.
        suspect, verdict: of a check on behalf of an image: whose decoder was lost, and what is to be said of it if an
            image known to be good can be decoded.
        losses: children that were lost with this image in a decoder's hands.
        unclaimed: children that were lost with this at the head of what they had to do, and did not say so.
    """

    kind: Kind
    future: Future[Any]
    limit_s: float
    memory_bytes: int
    image: Job | None = None
    fetched: Fetched | None = None
    body: bytes = b""
    format: str | None = None
    suspect: PendingRequest | None = None
    verdict: Rejected | None = None
    losses: int = 0
    unclaimed: int = 0
    request_id: int = field(default_factory=lambda: next(_request_ids))

    @property
    def alone(self) -> bool:
        """Whether it needs a child that has seen no image before it, and sees no other beside it.

        A child may have been taken over by an image that it decoded earlier, so only such a child can be believed when
        an image is blamed, or when a decoder is said to be broken.
        """
        return self.losses > 0 or self.kind == "check"

    def check(self, verdict: Rejected) -> PendingRequest:
        """A request to check, before this image is rejected, that an image known to be good takes the same step."""
        return PendingRequest(
            "check",
            self.future,
            self.limit_s,
            self.memory_bytes,
            image=self.image,
            format=self.format or sniff(self.body),
            suspect=self,
            verdict=verdict,
        )

    def done(self, answer: object) -> None:
        self._let_go()
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(answer)

    def failed(self, error: BaseException) -> None:
        """For a check on behalf of an image, that image's future fails."""
        if self.suspect is not None:
            self.suspect.failed(error)
            return
        self._let_go()
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def dropped(self) -> None:
        self._let_go()
        self.future.cancel()
        self.future.set_running_or_notify_cancel()

    def _let_go(self) -> None:
        """Before anyone is told, so that who counts the bytes no longer has none of them in use."""
        size, self.body = len(self.body), b""
        if self.kind == "decode":  # whose bytes no `Fetched` has any more
            freed(size)


@dataclass(frozen=True, slots=True)
class AtImage:
    """For the log: whose image a child is at."""

    image: Job | None

    def __str__(self) -> str:
        return "at no image" if self.image is None else f"at {self.image}"

    def log_fields(self, *, keys: bool) -> LogFields:
        return {} if self.image is None else self.image.log_fields(keys=keys)


class Child:
    """A child as we see it. Every call belongs to the supervisor's thread.

    It works on what it was given in the order in which it was given, so the first in hand is what it is at. `at` is the
    request id of that one when it was last looked at, 0 none; `at_s` for how many seconds, or how long it has not been
    ready. `fresh`: it was given nothing yet. `retiring`: it is given nothing more. `complaints`: the end of
    its standard error that can be read. `words`: what it has just said that the codec wrote there.
    """

    def __init__(
        self, place: int, pid: int, sock: socket.socket, complaints: int, region: Region, limits: Limits
    ) -> None:
        self.place = place
        self.pid = pid
        self.complaints = complaints
        self.words = ""
        self.channel = Channel(sock, limits)
        self.ready = False
        self.fresh = True
        self.retiring = False
        self.region = region
        self.in_hand: dict[int, PendingRequest] = {}
        self.loss: Loss = "death"
        self.at = 0
        self.at_s = 0.0
        self._slots: dict[int, int] = {}
        self._places: dict[int, int] = {}

    @property
    def first(self) -> PendingRequest | None:
        return next(iter(self.in_hand.values()), None)

    @property
    def at_image(self) -> AtImage:
        return AtImage(self.first.image if self.first is not None else None)

    @property
    def waits_for_us(self) -> bool:
        """Whether it may run out of work before it answers."""
        return self.ready and len(self.in_hand) < _ENOUGH_IN_HAND

    def open_to(self, request: PendingRequest) -> bool:
        if not self.ready or self.retiring or self.at_s >= HESITATION_S:
            return False
        if request.alone:
            return self.fresh
        if any(each.alone for each in self.in_hand.values()) or len(self.in_hand) >= _MOST_IN_HAND:
            return False
        return request.kind != "decode" or len(self._slots) < SLOTS

    def give(self, request: PendingRequest) -> None:
        self.fresh = False
        self.in_hand[request.request_id] = request
        slot = _free(self._slots, request.request_id, SLOTS) if request.kind == "decode" else 0
        place = None
        if 0 < len(request.body) <= PLACE_BYTES:
            place = _free(self._places, request.request_id, PLACES)
            self.region.put(place, request.body)
        self.channel.put(
            Request(request.kind, request.request_id, request.format, slot, request.memory_bytes, request.body, place)
        )

    def take_back(self, answer: Answer) -> tuple[PendingRequest, int]:
        """The request that is answered, out of the child's hands, and its slot, which is free again.

        Raises:
            Garbled: this is no answer to what the child is at.
        """
        first = self.first
        if first is None or not isinstance(answer, _ANSWERS_TO[first.kind]) or answer.request_id != first.request_id:
            raise Garbled("an answer to what it was not asked, or out of turn")
        self._places.pop(first.request_id, None)
        return self.in_hand.pop(first.request_id), self._slots.pop(first.request_id, 0)

    def complained(self, answer: Complained) -> None:
        """
        Raises:
            Garbled: it is about nothing that the child is at, or not the first about that.
        """
        if self.first is None or answer.request_id != self.first.request_id or self.words:
            raise Garbled("words about what it is not at, or once more")
        self.words = answer.words or "?"

    def watch(self, gap_s: float) -> float:
        """`at_s`, brought up to date; to be called every `gap_s`."""
        at = self.first.request_id if self.first is not None else 0
        self.at_s = self.at_s + gap_s if at == self.at and (at or not self.ready) else 0.0
        self.at = at
        return self.at_s


def _free(taken: dict[int, int], request_id: int, count: int) -> int:
    """One of so many numbers that no other request has, noted as this one's."""
    taken[request_id] = next(number for number in range(count) if number not in taken.values())
    return taken[request_id]
