"""What callers asked for, and who has it in hand."""

from __future__ import annotations

import itertools
import socket
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from schemas.image_event import ImageEvent
from workers.errors import Rejected
from workers.intake.processes.channel import Channel
from workers.intake.processes.slab import SLOTS, Grant, Region

Kind: TypeAlias = Literal["fetch", "decode", "check"]

_tickets = itertools.count(1)

HESITATION_S = 1.0
"""A child whose decoder has been at one picture for so long gets nothing new until it is done."""


@dataclass(eq=False, slots=True)
class Order:
    """One call's work, or a canary's.

    Args:
        event: of a fetch.
        body, format: of a decode; kept until it is done, so that a child that dies takes no bytes with it.
        suspect, verdict: of a check on behalf of one: whose decoder died, and what is to be said of it if the canary
            lives.
        deaths: children that were lost with this in a decoder's hands, by themselves or by the clock.
        starved: how often it got no memory although it was not in a decoder's hands.
    """

    kind: Kind
    future: Future[Any]
    event: ImageEvent | None = None
    body: bytes = b""
    format: str | None = None
    suspect: Order | None = None
    verdict: Rejected | None = None
    deaths: int = 0
    starved: int = 0
    ticket: int = field(default_factory=lambda: next(_tickets))

    @property
    def alone(self) -> bool:
        """Whether it shares a decoder with nobody: a child was lost over it, or over the one that it is to clear."""
        return self.kind != "fetch" and (self.deaths > 0 or self.suspect is not None)

    def done(self, answer: object) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(answer)

    def failed(self, error: BaseException) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def dropped(self) -> None:
        self.future.cancel()
        self.future.set_running_or_notify_cancel()


class Child:
    """A child as we see it. Every call belongs to the supervisor's thread.

    `at` is the ticket that its decoder was last seen at, 0 none; `at_s` for how many seconds, or how long it has not
    been ready; `timed_out` whether it was killed for that.
    """

    def __init__(self, place: int, pid: int, sock: socket.socket, region: Region) -> None:
        self.place = place
        self.pid = pid
        self.channel = Channel(sock)
        self.ready = False
        self.region = region
        self.in_hand: dict[int, Order] = {}
        self.timed_out = False
        self.at = 0
        self.at_s = 0.0
        self._grants: dict[int, Grant] = {}
        self._generation = 0

    def open_to(self, order: Order, fetch_threads: int) -> bool:
        if not self.ready or self.at_s >= HESITATION_S:
            return False
        if order.kind == "fetch":
            return self.load("fetch") < fetch_threads
        shared = not order.alone and not any(each.alone for each in self.in_hand.values())
        return self.load(order.kind) < (SLOTS if shared else 1)

    def load(self, kind: Kind) -> int:
        return sum((order.kind == "fetch") == (kind == "fetch") for order in self.in_hand.values())

    def give(self, order: Order) -> None:
        self.in_hand[order.ticket] = order
        if order.kind == "fetch":
            self.channel.put(("fetch", order.ticket, order.event))
        elif order.kind == "decode":
            self.channel.put(("decode", order.ticket, order.format, self._grant(order.ticket)), order.body)
        else:
            self.channel.put(("check", order.ticket, order.format))

    def take_back(self, ticket: int) -> Order | None:
        """The order that an answer is about, out of the child's hands; its slot is free. None: not in its hands."""
        self._grants.pop(ticket, None)
        return self.in_hand.pop(ticket, None)

    def granted(self, ticket: int, grant: Grant) -> bool:
        """Whether this slot still belongs to that picture."""
        return self._grants.get(ticket) == grant

    def watch(self, gap_s: float) -> float:
        """`at_s`, brought up to date; to be called every `gap_s`."""
        mark = self.region.mark
        self.at_s = self.at_s + gap_s if mark == self.at and (mark or not self.ready) else 0.0
        self.at = mark
        return self.at_s

    def _grant(self, ticket: int) -> Grant:
        taken = {grant.slot for grant in self._grants.values()}
        self._generation += 1
        grant = Grant(next(slot for slot in range(SLOTS) if slot not in taken), self._generation)
        self._grants[ticket] = grant
        return grant
