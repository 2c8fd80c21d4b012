"""The thread that owns the decoding children.

It dispatches requests, collects results, enforces timeouts, and reaps and replaces dead children.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

from schemas.dead_letter import Reason
from workers import metrics
from workers.errors import Broken, Rejected
from workers.intake.decoding import facts_of
from workers.intake.limits import Limits
from workers.intake.processes import wire
from workers.intake.processes.fork_server import ForkServer, ForkServerLost
from workers.intake.processes.pending import Child, PendingRequest, fork_child
from workers.intake.processes.shared_memory import Layout
from workers.intake.turns import Turns
from workers.types import Job, Partition

logger = logging.getLogger(__name__)

_TICK_S = 0.05
_LONGEST_GAP_S = 0.5
"""Longer gaps between two turns (a frozen machine, a stopped process) count as this."""
_TRIES = 2
"""An image is blamed for the second child's death: an operator or a busy machine may have caused the first."""
_LONGEST_REST_S = 0.02
"""Longest wait for more answers while every child has a long queue."""
_SHARED_S = 10.0
"""Images with a longer limit never occupy every child while other partitions have images."""
_NO_ROOM = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_ROOM_S = 0.5
"""Pause before the next try if the system lacks descriptors or processes for a child."""


class Supervisor:
    """Owns the children in a thread of its own, until `close`.

    `submit`, `close` and `pids` are for any thread.

    Args:
        plan: a pickled `ChildPlan`, sent to the fork server.
    """

    def __init__(self, plan: bytes, layout: Layout, limits: Limits, *, children: int, close_s: float) -> None:
        self._plan = plan
        self._layout = layout
        self._limits = limits
        self._close_s = close_s
        self._lock = threading.Lock()
        self._submitted: deque[PendingRequest] = deque()
        self._awaited = False
        """Whether the next submitted request wakes the thread."""
        self._closing = False
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

        # For the thread alone.
        self._turns: Turns[PendingRequest] = Turns(ranks=3)
        self._suspect: PendingRequest | None = None
        """The request that waits for a fresh child; one at a time, so that other requests continue."""
        self._fork_server: ForkServer | None = None
        self._children: list[Child | None] = [None] * children
        self._selector = selectors.DefaultSelector()
        self._watched_at = time.monotonic()
        self._never_started = 0
        self._most_never_started = 3 * children + 5
        self._broken: Broken | None = None
        self._no_room_until = 0.0
        self._rest_s = _LONGEST_REST_S
        self._room_warned = False
        self.doubted: Callable[[Collection[str]], None] = lambda _: None
        """As in `Intake.on_doubt`."""
        self.longest: tuple[Job | None, float] = None, time.monotonic()
        """The image that has run in a child for longest, and when it began; or None, and when the last one ended.
        Replaced, never changed: any thread may read it."""
        self.lacks: tuple[str, ...] = ()
        """Protections that this kernel lacks; known after a child's first answer."""

        self._thread = threading.Thread(target=self._run, name="tagstream-intake", daemon=True)
        self._thread.start()

    def submit(self, request: PendingRequest) -> None:
        with self._lock:
            if not self._closing:
                self._submitted.append(request)
                if self._awaited:
                    self._awaited = False
                    self._wake()
                return
        request.dropped()

    def close(self) -> None:
        with self._lock:
            if not self._closing:
                self._closing = True
                self._wake()
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
            with self._lock:
                self._closing = True
                os.close(self._alarm)
            self._selector.close()

    def _turn(self) -> None:
        """One round: start missing children, take answers, look at the clock, dispatch requests."""
        self._fill_places()
        if all(child is not None and child.has_much for child in self._children):
            self._gather_answers()
        else:
            self._listen_for(0.0 if self._has_awaited_requests() else _TICK_S if self._busy() else _NO_ROOM_S)
        self._watch()
        self._take_submitted()
        self._hand_out()

    def _gather_answers(self) -> None:
        """Collect several answers while every child has a long queue.

        Waking this thread and the next stage for each answer costs as much as the stage's work. If a child runs out of
        work, the next rest is shorter.
        """
        time.sleep(self._rest_s)
        self._listen_for(0.0)
        ran_out = any(child is None or child.waits_for_us for child in self._children)
        self._rest_s = self._rest_s / 2 if ran_out else min(_LONGEST_REST_S, self._rest_s * 1.25)

    def _busy(self) -> bool:
        return any(child is not None and child.in_hand for child in self._children)

    def _has_awaited_requests(self) -> bool:
        """Whether a child waits for a submitted request; if not, the next one wakes this thread.

        If every child has enough requests, submitted ones wait for the next answer.
        """
        awaited = self._broken is not None or any(child is not None and child.waits_for_us for child in self._children)
        with self._lock:
            missed = awaited and bool(self._submitted)
            self._awaited = awaited and not missed
        return missed

    def _listen_for(self, seconds: float) -> None:
        events = self._selector.select(seconds)
        self._awaited = False
        for key, _ in events:
            if isinstance(key.data, Child):
                self._on_child_readable(key.data)
            else:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._alarm)

    def _wake(self) -> None:
        os.eventfd_write(self._alarm, 1)

    def _take_submitted(self) -> None:
        with self._lock:
            requests, self._submitted = self._submitted, deque()
        for request in requests:
            if self._broken is not None:
                request.failed(self._broken)
            else:
                self._add(request)

    def _add(self, request: PendingRequest, *, first: bool = False) -> None:
        self._turns.add(request.partition, request, request.rank, first=first, background=request.background)

    def _hand_out(self) -> None:
        self._hand_out_suspect()
        passed: set[Partition | None] = set()
        while request := self._turns.next(1, passed):
            if self._would_hold_every_child(request):
                passed.add(request.partition)
                continue
            child = self._least_busy(request)
            if child is None:
                break
            self._give(child, self._turns.take(1, passed))
        for child in list(self._children):
            if child is not None and child.retiring and not child.in_hand:
                self._retire(child)
        if self._suspect is not None:
            self._make_fresh()

    def _hand_out_suspect(self) -> None:
        if self._suspect is None:
            request = self._turns.next()
            if request is None or not request.alone or self._would_hold_every_child(request):
                return
            if any(child and child.has_suspect for child in self._children):
                return
            self._suspect = self._turns.take()
        if child := self._least_busy(self._suspect):
            self._give(child, self._suspect)
            self._suspect = None

    def _would_hold_every_child(self, request: PendingRequest) -> bool:
        """Whether its partition's slow images would then occupy every child.

        False while no other partition has images.
        """
        if request.limit_s <= _SHARED_S or len(self._children) == 1 or self._turns.alone(request.partition):
            return False
        left = [child for child in self._children if child is None or not child.may_take(_SHARED_S, request.partition)]
        return len(left) <= 1

    def _give(self, child: Child, request: PendingRequest) -> None:
        child.give(request)
        self._listen(child)

    def _least_busy(self, request: PendingRequest) -> Child | None:
        """The least busy child that may get this request; fresh ones are kept for a waiting suspect."""
        kept = self._suspect is not None and not request.alone
        expected_s = self._turns.expected_s(request.partition)
        children = [child for child in self._children if child is not None and not (kept and child.fresh)]
        open_ones = [child for child in children if child.open_to(request, expected_s)]
        return min(open_ones, key=lambda child: len(child.in_hand), default=None)

    def _make_fresh(self) -> None:
        """Prepare a child that has seen no image, unless one is coming."""
        children = [child for child in self._children if child is not None]
        if len(children) < len(self._children) or any(child.fresh for child in children):
            return
        spare = min(children, key=lambda child: len(child.in_hand))
        if not spare.in_hand:
            self._retire(spare)
        elif not any(child.retiring for child in children):
            spare.retiring = True

    def _retire(self, child: Child) -> None:
        try:
            if self._fork_server is not None:
                self._fork_server.reap(child.pid)
        except ForkServerLost as error:
            self._lose_fork_server(error)
        else:
            self._forget(child)
            self._wake()

    # ---- answers of children ---------------------------------------------------------------------------------------

    def _listen(self, child: Child) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.channel.unsent else 0)
        if self._selector.get_key(child.channel).events != events:
            self._selector.modify(child.channel, events, child)

    def _on_child_readable(self, child: Child) -> None:
        if self._children[child.place] is not child:  # reaped earlier in this round
            return
        if child.channel.unsent:
            child.channel.flush()
            self._listen(child)
        if not self._take_answers(child):
            self._reap(child)

    def _take_answers(self, child: Child, *, dead: bool = False) -> bool:
        """Whether the child may send more answers."""
        try:
            for answer in child.channel.take(dead=dead):
                self._take_answer(child, answer)
        except wire.Garbled as error:
            logger.warning("killing a decoder process, at %s, after an invalid answer: %s", child.at_image, error)
            child.loss = "bad-answer"
            return False
        return not child.channel.ended

    def _take_answer(self, child: Child, answer: wire.Answer) -> None:
        """Hand one answer to its request. Raises Garbled if it fits no request of the child."""
        if isinstance(answer, wire.Ready | wire.Failed) and not child.ready:
            self._begun(child, answer)
            return
        if isinstance(answer, wire.Complained):
            child.complained(answer)
            metrics.STDERR_LINES.add(answer.lines, of="decoder")
            lines, words = answer.lines, answer.words
            logger.debug("a decoder's codec wrote %d lines at %s, the last: %s", lines, child.at_image, words)
            return
        request, place = child.take_from(answer)
        if request is not None:
            self._turns.took(request.partition, child.took_s)
        words, child.words = child.words, ""
        if request is None:
            return
        match answer:
            case wire.Inspected(_, header):
                assert request.fetched is not None
                request.done(facts_of(request.fetched, header))
            case wire.Refused(_, reason, detail):
                request.failed(Rejected("decode", reason, wire.with_words(detail, words)))
            case wire.Failed(_, detail):
                detail = wire.with_words(f"the decoder's process failed: {detail}", words)
                self._blame(request, "decode-failed", detail)
            case wire.Completed(_, facts) if request.kind != "check":
                request.done(child.region.read(place, request.transforms, facts))
            case _ if request.suspect is None:
                request.done(None)
            case _:  # a passed check: its suspect is poison
                assert request.verdict is not None
                request.failed(request.verdict)

    def _begun(self, child: Child, answer: wire.Ready | wire.Failed) -> None:
        if isinstance(answer, wire.Failed):
            self._give_up(Broken(f"the intake's child processes can't work: {answer.detail}"))
            return
        child.ready = True
        self._never_started = 0
        if answer.lacks and not self.lacks:
            self.lacks = answer.lacks
            logger.warning("decoders run with a weaker sandbox: this kernel has no %s", " and no ".join(answer.lacks))

    # ---- the clock, and death ---------------------------------------------------------------------------------------

    def _watch(self) -> None:
        now = time.monotonic()
        gap_s, self._watched_at = min(now - self._watched_at, _LONGEST_GAP_S), now
        for child in list(self._children):
            if child is None:
                continue
            if child.watch(gap_s) > child.limit_s:
                child.loss = "clock"
                self._reap(child)
            elif child.hesitates:
                self._put_back(child.withdraw())
        began = [child.began for child in self._children if child is not None and child.in_hand]
        if began:
            self.longest = min(began, key=lambda each: each[1])
        elif self.longest[0] is not None:
            self.longest = None, now

    def _reap(self, child: Child) -> None:
        """Reap the child, log its last words and requeue its requests."""
        if self._children[child.place] is not child:  # closed with all others
            return
        try:
            code = self._fork_server.reap(child.pid) if self._fork_server else 0
        except ForkServerLost as error:
            self._lose_fork_server(error)
            return
        if child.loss != "bad-answer":
            self._take_answers(child, dead=True)
        if self._children[child.place] is not child:
            return
        self._never_started += not child.ready
        suspect = child.suspect()
        if child.first is not None:
            self._turns.took(child.first.partition, child.at_s)
        (lines, words), at_image = child.last_words(code), child.at_image
        self._forget(child, suspect)
        if child.loss != "clock" and (contents := child.lately_answered(time.monotonic())):
            self.doubted(contents)
        metrics.DECODERS_LOST.add(cause=child.loss)
        metrics.STDERR_LINES.add(lines, of="decoder")
        logger.warning("a decoder process died, at %s: %s", at_image, words)
        if suspect is not None:
            self._blame(suspect, "decode-timeout" if child.loss == "clock" else "kills-decoder", words)

    def _forget(self, child: Child, suspect: PendingRequest | None = None) -> None:
        """Free the child's place; its requests, but for the suspect, go back to the front of their queues in order."""
        self._selector.unregister(child.channel)
        child.channel.close()
        os.close(child.complaints)
        self._children[child.place] = None
        self._put_back([each for each in child.in_hand.values() if each is not suspect and not child.has_lost(each)])

    def _put_back(self, requests: Sequence[PendingRequest]) -> None:
        """Requeue requests at the front of their queues, in order."""
        for request in sorted(requests, key=lambda each: each.request_id, reverse=True):
            self._add(request, first=True)

    def _blame(self, request: PendingRequest, reason: Reason, words: str) -> None:
        request.losses += 1
        if request.kind == "check":
            request.failed(Broken(f"a decoder fails on an image known to be good: {words}"))
        elif request.losses >= _TRIES:
            self._put_back([request.check(Rejected("decode", reason, words))])
        else:
            self._put_back([request])

    # ---- places and the fork server ----------------------------------------------------------------------------------

    def _fill_places(self) -> None:
        if self._broken is not None or time.monotonic() < self._no_room_until:
            return
        if self._never_started > self._most_never_started:
            self._give_up(Broken("the intake's child processes die before they are ready"))
            return
        try:
            fork_server = self._fork_server = self._fork_server or ForkServer(self._plan, lambda: self._closing)
            for place, child in enumerate(self._children):
                if child is None:
                    self._children[place] = born = fork_child(fork_server, place, self._layout, self._limits)
                    self._selector.register(born.channel, selectors.EVENT_READ, born)
            self._room_warned = False
        except ForkServerLost as error:
            self._lose_fork_server(error)
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._no_room_until = time.monotonic() + _NO_ROOM_S
                if not self._room_warned:
                    self._room_warned = True
                    logger.warning("can't start a decoder process (%s); trying again", error.strerror)
            else:
                self._give_up(
                    Broken(
                        f"this system lets the worker start no decoder process ({error.strerror}): allow fork and exec"
                        " in the sandbox around it, such as a container's seccomp profile"
                    )
                )

    def _lose_fork_server(self, error: ForkServerLost) -> None:
        if not self._closing:
            logger.warning("%s; starting it again", error)
            self._never_started += len(self._children)
        self._close_fork_server()

    def _close_fork_server(self) -> None:
        for child in list(self._children):
            if child is not None:
                self._forget(child)
        if self._fork_server is not None:
            self._fork_server.close()
            self._fork_server = None

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _give_up(self, error: Broken) -> None:
        self._broken = error
        self._close_fork_server()
        for request in self._waiting():
            request.failed(error)

    def _waiting(self) -> list[PendingRequest]:
        """Take out all requests outside of children."""
        with self._lock:
            requests = [*self._submitted, *self._turns.drain()]
            self._submitted.clear()
        if self._suspect is not None:
            requests.append(self._suspect)
            self._suspect = None
        return requests

    def _wind_up(self) -> None:
        """1. Drop waiting requests. 2. Wait for running ones. 3. Drop the rest, with their children."""
        deadline = time.monotonic() + self._close_s
        while True:
            for request in self._waiting():
                request.dropped()
            if not self._busy() or time.monotonic() > deadline:
                break
            self._listen_for(_TICK_S)
        self._close_fork_server()
        for request in self._waiting():
            request.dropped()
