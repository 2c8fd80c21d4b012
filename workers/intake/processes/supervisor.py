"""The one thread that owns the children: it hands out orders, takes answers, watches the clock, buries and replaces."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import threading
import time
from collections import deque

from schemas.dead_letter import Reason
from workers import metrics
from workers.errors import Broken, Rejected
from workers.intake.processes.channel import Garbled, Message
from workers.intake.processes.child import Counts
from workers.intake.processes.nursery import Nursery, NurseryLost
from workers.intake.processes.orders import Child, Order
from workers.intake.processes.slab import Layout, Region, make_slab
from workers.intake.stages import EncodedBytes
from workers.vocabulary import Fetched

logger = logging.getLogger(__name__)

_TICK_S = 0.05
_LONGEST_GAP_S = 1.0
"""If we ourselves did not run for longer (a frozen machine, a stopped process), that time is nobody's fault."""
_BIRTH_S = 30.0
"""A child that is not ready after so long is taken for one that hangs: making its object store may."""
_TRIES = 2
"""A picture is blamed for the second child that is lost with it: the first may have been killed by something else, or
been slow because the machine was."""


class Supervisor:
    """Runs from the first moment until `close`. `submit`, `close` and `pids` are for any thread.

    Args:
        plan: a pickled `Plan`, sent to the nursery.
        layout: as in the plan.
        children: how many.
        fetch_threads: GETs at the same time, of all children together.
        decode_s, close_s: as in `ProcessIntake`.
    """

    def __init__(
        self, plan: bytes, layout: Layout, *, children: int, fetch_threads: int, decode_s: float, close_s: float
    ) -> None:
        self._plan = plan
        self._layout = layout
        self._fetch_threads = fetch_threads
        self._fetch_threads_each = -(-fetch_threads // children)
        self._decode_s = decode_s
        self._close_s = close_s
        self._lock = threading.Lock()
        self._submitted: deque[Order] = deque()
        self._closing = False
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

        # Of the thread alone.
        self._fetches: deque[Order] = deque()
        self._decodes: deque[Order] = deque()
        self._nursery: Nursery | None = None
        self._regions: list[Region] = []
        self._children: list[Child | None] = [None] * children
        self._selector = selectors.DefaultSelector()
        self._watched_at = time.monotonic()
        self._stillborn = 0
        self._most_stillborn = 3 * children + 5
        self._broken: Broken | None = None

        self._thread = threading.Thread(target=self._run, name="tagstream-intake", daemon=True)
        self._thread.start()

    def submit(self, order: Order) -> None:
        with self._lock:
            if not self._closing:
                self._submitted.append(order)
                os.eventfd_write(self._alarm, 1)
                return
        order.dropped()

    def close(self) -> None:
        with self._lock:
            if not self._closing:
                self._closing = True
                os.eventfd_write(self._alarm, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(child.pid for child in list(self._children) if child is not None and child.ready)

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._selector.register(self._alarm, selectors.EVENT_READ)
            while not self._closing:
                self._turn()
            self._wind_up()
        except Exception as error:
            logger.exception("the intake's supervisor failed")
            self._give_up(Broken(f"the intake's supervisor failed: {type(error).__name__}: {error}"))
        finally:
            self._end()

    def _turn(self) -> None:
        """One round: children that are missing, news from the others, the clock, then new orders."""
        self._fill_places()
        self._listen_for(_TICK_S if self._busy() else 1.0)
        self._watch()
        self._take_orders()
        self._hand_out()

    def _busy(self) -> bool:
        return any(child is not None and child.in_hand for child in self._children)

    def _listen_for(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if isinstance(key.data, Child):
                self._hear(key.data)
            else:
                self._read_alarm()

    def _read_alarm(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._alarm)

    def _take_orders(self) -> None:
        with self._lock:
            orders, self._submitted = self._submitted, deque()
        for order in orders:
            if self._broken is not None:
                order.failed(self._broken)
            else:
                self._queue(order).append(order)

    def _queue(self, order: Order) -> deque[Order]:
        return self._fetches if order.kind == "fetch" else self._decodes

    def _hand_out(self) -> None:
        for queue in (self._decodes, self._fetches):
            while queue and (child := self._least_busy(queue[0])):
                child.give(queue.popleft())
                self._listen(child)

    def _least_busy(self, order: Order) -> Child | None:
        """Of the children that may be given this order."""
        children = [child for child in self._children if child is not None]
        if order.kind == "fetch" and sum(child.load("fetch") for child in children) >= self._fetch_threads:
            return None
        open_ones = [child for child in children if child.open_to(order, self._fetch_threads_each)]
        return min(open_ones, key=lambda child: child.load(order.kind), default=None)

    # ---- what children say ------------------------------------------------------------------------------------------

    def _listen(self, child: Child) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.channel.unsent else 0)
        if self._selector.get_key(child.channel).events != events:
            self._selector.modify(child.channel, events, child)

    def _hear(self, child: Child) -> None:
        if self._children[child.place] is not child:  # buried earlier in this round
            return
        child.channel.flush()
        self._listen(child)
        if not self._take_answers(child):
            self._bury(child)

    def _take_answers(self, child: Child) -> bool:
        """Whether the child can be expected to say more."""
        try:
            for message, body in child.channel.take():
                self._take_answer(child, message, body)
        except Garbled as error:
            logger.warning("a decoder's process sends nonsense: %s", error)
            return False
        return not child.channel.ended

    def _take_answer(self, child: Child, message: Message, body: bytes) -> None:
        kind, ticket, *rest = message
        if kind == "ready":
            child.ready = True
            self._stillborn = 0
            return
        if kind == "counted":
            _count(rest[0])
            return
        if kind == "useless":
            self._give_up(Broken(f"the intake's child processes can't work: {rest[0]}"))
            return
        if kind == "decoded" and not child.granted(ticket, rest[0]):
            raise Garbled("pixels in a slot that was not granted")
        picture = child.region.read(rest[0].slot) if kind == "decoded" else None
        order = child.take_back(ticket)
        if order is None:
            raise Garbled("an answer to what was not asked")
        if kind == "fetched":
            order.done(Fetched(rest[0], EncodedBytes(body), copied_bytes=len(body)))
        elif kind == "decoded":
            order.done(picture)
        elif kind == "checked":
            self._checked(order)
        else:
            self._failed(order, rest[0])

    def _failed(self, order: Order, error: BaseException) -> None:
        if isinstance(error, MemoryError):  # in a fetch, while the decoder beside it took all there was
            order.starved += 1
            if order.starved < 3:
                self._queue(order).appendleft(order)
                return
            error = Broken("a child process of the intake has no memory to fetch an object into")
        (order.suspect or order).failed(error)

    # ---- the clock, and death ---------------------------------------------------------------------------------------

    def _watch(self) -> None:
        now = time.monotonic()
        gap_s, self._watched_at = min(now - self._watched_at, _LONGEST_GAP_S), now
        for child in list(self._children):
            if child is not None and child.watch(gap_s) > (self._decode_s if child.ready else _BIRTH_S):
                child.timed_out = True
                self._bury(child)

    def _bury(self, child: Child) -> None:
        """See that the child is dead, hear its last words, and decide what becomes of what it had in hand."""
        if self._children[child.place] is not child:  # given up meanwhile, with all others
            return
        try:
            code = self._nursery.bury(child.pid) if self._nursery else 0
        except NurseryLost as error:
            self._lose_nursery(error)
            return
        self._take_answers(child)  # to the end: the dead say nothing more
        if self._children[child.place] is not child:
            return
        self._stillborn += not child.ready
        suspect = child.in_hand.get(child.region.mark)
        if child.timed_out and suspect is not None and suspect.ticket != child.at:
            suspect = None  # it was done with the slow one after all, and we killed it at the next
        child.region.mark = 0
        self._forget(child, suspect)
        words = self._story(child, code)
        metrics.DECODERS_LOST.add(cause="clock" if child.timed_out else "death")
        logger.warning("a decoder's process was lost: %s", words)
        if suspect is not None:
            self._blame(suspect, "decode-timeout" if child.timed_out else "kills-decoder", words)

    def _story(self, child: Child, code: int) -> str:
        if not child.timed_out:
            return f"the decoder's process died: {_cause(code)}"
        return f"no end after {self._decode_s:g} s" if child.ready else f"not ready after {_BIRTH_S:g} s"

    def _forget(self, child: Child, suspect: Order | None = None) -> None:
        """The place is free, and the innocent orders go back to the front of their queues, in their order."""
        self._selector.unregister(child.channel)
        child.channel.close()
        self._children[child.place] = None
        for order in sorted(child.in_hand.values(), key=lambda each: each.ticket, reverse=True):
            if order is not suspect:
                self._queue(order).appendleft(order)

    def _blame(self, order: Order, reason: Reason, words: str) -> None:
        order.deaths += 1
        if order.suspect is not None:
            order.suspect.failed(Broken(f"a decoder fails on a picture known to be good: {words}"))
        elif order.deaths >= _TRIES:
            verdict = Rejected("decode", reason, words)
            self._decodes.appendleft(Order("check", order.future, format=order.format, suspect=order, verdict=verdict))
        else:
            self._queue(order).appendleft(order)

    def _checked(self, check: Order) -> None:
        """A picture known to be good was decoded: if that was for a suspect, it is guilty."""
        if check.suspect is None:
            check.done(None)
            return
        assert check.verdict is not None
        check.suspect.failed(check.verdict)

    # ---- places and the nursery -------------------------------------------------------------------------------------

    def _fill_places(self) -> None:
        if self._broken is not None:
            return
        if self._stillborn > self._most_stillborn:
            self._give_up(Broken("the intake's child processes die before they are ready"))
            return
        try:
            nursery = self._nursery or self._open_nursery()
            for place, child in enumerate(self._children):
                if child is None:
                    self._children[place] = self._fork(nursery, place)
        except NurseryLost as error:
            self._lose_nursery(error)

    def _open_nursery(self) -> Nursery:
        """A new nursery comes with a new slab, so children of an old one can write into nothing that is in use."""
        slab = make_slab(self._layout, len(self._children))
        try:
            self._regions = [Region(slab, self._layout, place) for place in range(len(self._children))]
            self._nursery = Nursery(self._plan, slab, lambda: self._closing)
        finally:
            os.close(slab)
        return self._nursery

    def _fork(self, nursery: Nursery, place: int) -> Child:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                pid = nursery.fork(place, theirs)
        except NurseryLost:
            ours.close()
            raise
        child = Child(place, pid, ours, self._regions[place])
        self._selector.register(child.channel, selectors.EVENT_READ, child)
        return child

    def _lose_nursery(self, error: NurseryLost) -> None:
        if not self._closing:
            logger.warning("%s; starting it again", error)
            self._stillborn += len(self._children)
        self._close_nursery()

    def _close_nursery(self) -> None:
        for child in list(self._children):
            if child is not None:
                self._forget(child)
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _give_up(self, error: Broken) -> None:
        self._broken = error
        self._close_nursery()
        for order in self._waiting():
            (order.suspect or order).failed(error)

    def _waiting(self) -> list[Order]:
        with self._lock:
            orders = [*self._submitted, *self._fetches, *self._decodes]
            self._submitted.clear()
        self._fetches.clear()
        self._decodes.clear()
        return orders

    def _wind_up(self) -> None:
        """1. Drop what waits. 2. Wait for what runs. 3. Drop what is still there, with its child."""
        deadline = time.monotonic() + self._close_s
        while True:
            for order in self._waiting():
                order.dropped()
            if not self._busy() or time.monotonic() > deadline:
                break
            self._listen_for(_TICK_S)
        self._close_nursery()
        for order in self._waiting():
            order.dropped()

    def _end(self) -> None:
        with self._lock:
            self._closing = True
            os.close(self._alarm)
        self._selector.close()


def _count(counts: Counts) -> None:
    """Count for a child what it counted, in the metrics that are shown."""
    try:
        for counter, amount, labels in counts:
            metrics.count(counter, amount, labels)
    except (KeyError, TypeError, ValueError) as error:
        raise Garbled(f"counts that are none: {error}") from error


def _cause(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"
