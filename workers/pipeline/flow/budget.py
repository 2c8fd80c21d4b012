"""Budgets: memory limits that partitions share without starving each other.

Half of a budget is divided into equal shares, one for each partition. The other half is a pool for all partitions.
Reservations of one partition are granted in FIFO order, from the partition's share or else from the pool. So images
of one partition can wait behind a stuck image, but every other partition still has its share.

A reservation larger than the pool waits until the pool is empty, and then takes the whole pool. Meanwhile no other
reservation is granted from the pool. A new partition makes the shares smaller. A share above its new size shrinks as
its reservations end. Until then its partition gets nothing from the pool.

What is kept for long is moved to its partition's share, and may exceed it. So the pool stays free for others.

If there are background partitions, a quarter is for their shares, and they have at most half of the pool. Their
reservations are granted after the live ones that wait, or in turn after some of these.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial

from workers.lanes import Precedence, is_background
from workers.types import Partition


class GrantLoop:
    """Makes the calls that `choose` returns, one by one, outside the lock. Thread-safe.

    A call may itself release or reserve bytes. This causes no recursion: the loop that is running makes the next calls.

    Args:
        lock: held during `choose`.
        choose: returns the next call to make, or None.
    """

    def __init__(self, lock: threading.Lock, choose: Callable[[], Callable[[], None] | None]) -> None:
        self._lock = lock
        self._choose = choose
        self._running = False

    def run(self) -> None:
        """Make all granted calls; return at once if another thread makes them."""
        with self._lock:
            if self._running:
                return
            call = self._choose()
            self._running = call is not None
        while call is not None:
            call()
            with self._lock:
                call = self._choose()
                self._running = call is not None


@dataclass(slots=True, eq=False)
class Reservation:
    """Reserved bytes. `release` or `shrink` may be called twice."""

    budget: Budget
    partition: Partition
    size: int
    from_pool: bool

    def shrink(self, size: int) -> None:
        """Give back all bytes above `size`."""
        self.budget._give_back(self, max(0, self.size - size))

    def keep(self, size: int) -> None:
        """Shrink to bytes that may be needed for hours."""
        self.budget._move_to_share(self)
        self.shrink(size)

    def release(self) -> None:
        self.shrink(0)


@dataclass(frozen=True, slots=True)
class _Waiting:
    size: int
    granted: Callable[[Reservation], None]


class Budget:
    """A limit that partitions share, in bytes or in concurrent downloads. Thread-safe.

    Args:
        limit: bytes of all shares and the pool together.
        background: topics of the background partitions.
    """

    def __init__(self, limit: int, background: Collection[str] = ()) -> None:
        self.limit = limit
        self._background = background
        self._precedence = Precedence()
        self._pool_limit = limit // 2
        self._lock = threading.Lock()
        self._waiting: dict[Partition, deque[_Waiting]] = {}
        self._held: dict[Partition, int] = {}
        self._pool_used = 0
        self._background_in_pool = 0
        self._partitions = 1
        self._background_partitions = 0
        self._grants = GrantLoop(self._lock, self._next)
        self.peak = 0
        """Most bytes reserved at once; only an oversized reservation exceeds `limit`."""

    def divide(self, live: int, background: int = 0) -> None:
        with self._lock:
            self._partitions, self._background_partitions = live, background
        self._grants.run()

    def reserve(self, partition: Partition, size: int, granted: Callable[[Reservation], None]) -> None:
        """Request `size` bytes; `granted` gets the reservation, now or later.

        This thread, or one that releases bytes, calls `granted` without the lock.
        """
        with self._lock:
            self._waiting.setdefault(partition, deque()).append(_Waiting(size, granted))
        self._grants.run()

    @property
    def used(self) -> int:
        with self._lock:
            return self._used()

    @property
    def waiting(self) -> int:
        with self._lock:
            return sum(len(queue) for queue in self._waiting.values())

    def _give_back(self, reservation: Reservation, size: int) -> None:
        if size <= 0:
            return
        with self._lock:
            size = min(size, reservation.size)
            reservation.size -= size
            if reservation.from_pool:
                self._use_pool(reservation.partition, -size)
            else:
                self._held[reservation.partition] -= size
                if not self._held[reservation.partition]:
                    del self._held[reservation.partition]
        self._grants.run()

    def _move_to_share(self, reservation: Reservation) -> None:
        with self._lock:
            if reservation.from_pool and reservation.size:
                reservation.from_pool = False
                self._use_pool(reservation.partition, -reservation.size)
                self._held[reservation.partition] = self._held.get(reservation.partition, 0) + reservation.size

    def _next(self) -> Callable[[], None] | None:
        """Grant one reservation. Partitions take turns, background ones after live ones unless it is their turn."""
        blocked: set[bool] = set()
        """Lanes that get nothing from the pool."""
        for partition in self._in_order():
            queue = self._waiting[partition]
            waiting, background = queue[0], self._is_background(partition)
            place = self._place(partition, waiting.size, background in blocked)
            if place is None:
                if self._held.get(partition, 0) <= self._share(background):
                    blocked |= self._blocks(waiting.size, background)
                continue
            queue.popleft()
            del self._waiting[partition]
            if queue:
                self._waiting[partition] = queue
            if place == "pool":
                self._use_pool(partition, waiting.size)
            else:
                self._held[partition] = self._held.get(partition, 0) + waiting.size
            self.peak = max(self.peak, self._used())
            if self._background and place == "pool":  # the lanes' shares are apart
                others_wait = any(map(self._is_background, self._waiting))
                self._precedence.had_turn(background=background, background_waits=others_wait)
            return partial(waiting.granted, Reservation(self, partition, waiting.size, place == "pool"))
        return None

    def _place(self, partition: Partition, size: int, pool_is_blocked: bool) -> str | None:
        background = self._is_background(partition)
        held, share = self._held.get(partition, 0), self._share(background)
        if held + size <= share and self._fits_into_shares(size, background):
            return "share"
        if pool_is_blocked or held > share or (background and not self._lane_has_room(size)):
            return None
        if self._pool_used + size <= self._pool_limit or (self._is_oversized(size) and not self._pool_used):
            return "pool"
        return None

    def _in_order(self) -> Iterable[Partition]:
        if not self._background:
            return self._waiting
        return sorted(self._waiting, key=self._is_background, reverse=self._precedence.background_is_next)

    def _blocks(self, size: int, background: bool) -> set[bool]:
        """Lanes that get nothing from the pool while this reservation waits."""
        if not background:
            return {False, True} if self._is_oversized(size) else {True}
        if self._lane_has_room(size) and self._precedence.background_is_next:
            return {False, True}
        return {True} if self._is_oversized(size * 2) else set()

    def _is_background(self, partition: Partition) -> bool:
        return is_background(partition, self._background)

    def _lane_has_room(self, size: int) -> bool:
        """Whether a background reservation may be granted from the pool: they have half of it, or one is larger."""
        return not self._background_in_pool or self._background_in_pool + size <= self._pool_limit // 2

    def _fits_into_shares(self, size: int, background: bool) -> bool:
        held = sum(self._held.values()) + size <= self.limit - self._pool_limit
        if not self._background or not held:
            return held
        of_lane = sum(held for partition, held in self._held.items() if self._is_background(partition) is background)
        return of_lane + size <= self._shares(background)

    def _share(self, background: bool) -> int:
        partitions = self._background_partitions if background else self._partitions
        return max(1, self._shares(background) // max(1, partitions))

    def _shares(self, background: bool) -> int:
        """Bytes of all shares of a lane."""
        shares = self.limit - self._pool_limit
        behind = shares // 2 if self._background_partitions else 0
        return behind if background else shares - behind

    def _use_pool(self, partition: Partition, size: int) -> None:
        self._pool_used += size
        if self._is_background(partition):
            self._background_in_pool += size

    def _used(self) -> int:
        return self._pool_used + sum(self._held.values())

    def _is_oversized(self, size: int) -> bool:
        return size > self._pool_limit


class ExclusiveGate:
    """Lets several images in at once, but a suspect only alone. Thread-safe.

    Images of a lane enter in FIFO order. So images behind a waiting suspect also wait, and the suspect gets its turn.
    Live images go before background ones: a crash may leave hundreds of background suspects.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = {background: deque[tuple[bool, Callable[[], None]]]() for background in (False, True)}
        self._precedence = Precedence()
        self._inside = 0
        self._alone = False
        self._grants = GrantLoop(self._lock, self._next)

    def enter(self, go: Callable[[], None], *, alone: bool, background: bool = False) -> None:
        """Call `go` when the gate is free, now or from `leave`. The image's owner then calls `leave` once."""
        with self._lock:
            self._waiting[background].append((alone, go))
        self._grants.run()

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            self._alone = False
        self._grants.run()

    def _next(self) -> Callable[[], None] | None:
        live, behind = self._waiting[False], self._waiting[True]
        background = bool(behind) and (not live or self._precedence.background_is_next)
        queue = behind if background else live
        if not queue or self._alone:
            return None
        alone, go = queue[0]
        if alone and self._inside:
            return None
        queue.popleft()
        self._precedence.had_turn(background=background, background_waits=bool(behind))
        self._inside += 1
        self._alone = alone
        return go
