"""The shadow tagger: a second tagger that sees a share of the images, beside the live line and never in its way.

It runs on a thread of its own, one image at a time, when nothing else is in hand or in a small part of its time. What
it can't take is dropped and counted. An error, an answer that is none, memory that runs out or a call that does not
come back switch it off, and change nothing else.

One thing can't be kept from the live line: a shadow that takes the whole process down. So a file stands on disk while
the shadow is at work; where a process finds it at its start, the shadow stays off.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from schemas.printable import printable
from workers import metrics
from workers.errors import Misconfigured
from workers.metrics import Reading
from workers.pipeline.profiles import Profile
from workers.pipeline.shadow.comparison import Comparison, require_comparable
from workers.pipeline.shadow.report import ShadowReport, known
from workers.pipeline.task import Task
from workers.ports import Clock, Tagger
from workers.types import LabelScores, Pixels

_log = logging.getLogger(__name__)

BUSY_SHARE = 0.05
"""Of its time while there is other work."""
LOAD_S = 600.0
"""How long loading and warming up may take: a worker's start waits for it."""
WRITE_EVERY_S = 60.0
MOST_WAITING = 8
"""Images that wait for it."""
_MOST_BYTES = 16 * 1024**2
"""Of their pixels, beyond which no more are taken."""
_LOOK_S = 0.02
"""How often it looks whether it may begin, while an image waits for it."""
_CLOSE_S = 2.0

Load: TypeAlias = Callable[[], tuple[Tagger, Profile]]


@dataclass(frozen=True, slots=True)
class _Seen:
    """An image, and the scores that the live tagger gave it."""

    pixels: Pixels
    live: LabelScores


class Shadow:
    """A tagger beside the live one. `offer` and `give_way` never wait; any thread may call them.

    Args:
        load: makes the tagger, and the profile that it would have as the live one. Called on the shadow's thread.
        live: the live tagger, and the profile under which its tags are compared.
        share: of the images, from 0 to 1, chosen by the hash of their content.
        report: the file; counts that it holds of the same two taggers are gone on with.
        worker: whose report it is.
        limit_s: how long one image may take.
    """

    def __init__(
        self,
        load: Load,
        live: Tagger,
        live_profile: Profile,
        clock: Clock,
        *,
        share: float,
        report: Path,
        worker: str,
        limit_s: float,
    ) -> None:
        self._load = load
        self._live, self._live_profile = live, live_profile
        self._clock = clock
        self._share = share
        self._path = report
        self._mark = report.with_name(f"{report.name}.at-work")
        self._worker = worker
        self._limits_s = {True: limit_s, False: LOAD_S}
        """How long a call may take, once it is warm and before."""
        self._filled = threading.Condition()
        self._waiting: deque[_Seen] = deque()
        self._dropped = 0
        self._off: str | None = None
        self._closed = False
        self._warm = threading.Event()
        self._reporting = threading.Lock()
        self._report: ShadowReport | None = None
        self._off_told = False
        self._comparison: Comparison | None = None
        self._since: float | None = None
        self._rests_until = self._write_at = clock.monotonic()
        self._forbidden: Callable[[], bool] = lambda: True
        self._idle: Callable[[], bool] = lambda: False
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    # ---- the worker's -----------------------------------------------------------------------------------------

    def start(self, stopping: Callable[[], bool]) -> None:
        """Load and warm up. Returns when that is done, has failed, takes too long, or is asked to stop."""
        self._thread.start()
        while not self._warm.wait(0.1) and not stopping() and not self._off:
            self.watch()

    def attend(self, *, forbidden: Callable[[], bool], idle: Callable[[], bool]) -> None:
        """Begin to work on what is offered.

        Args:
            forbidden: whether it must not begin now, whatever its time.
            idle: whether there is no other work, so that it may begin beyond its part of the time.
        """
        self._forbidden, self._idle = forbidden, idle

    def watch(self) -> None:
        """Switch off what does not come back. The watching thread."""
        since, limit_s = self._since, self._limits_s[self._warm.is_set()]
        if since is not None and self._clock.monotonic() - since > limit_s and not self._off:
            self._switch_off(f"it did not come back within {limit_s:g} s")
            self._write()

    def close(self) -> None:
        """End the work and write the last report; a call that hangs is left behind. Bounded in time."""
        with self._filled:
            self._closed = True
            self._dropped += len(self._waiting)
            self._waiting.clear()
            self._filled.notify()
        if self._off is None and self._thread.is_alive():
            self._thread.join(_CLOSE_S)
            self._mark.unlink(missing_ok=True)  # a call that is merely slow is no reason to stay off
        self._write()

    # ---- any thread -------------------------------------------------------------------------------------------

    def offer(self, task: Task) -> None:
        """Compare the task's image later, if it is chosen, was scored for all labels, and there is room for it."""
        live = task.results.get("tags")
        if self._off or live is None or task.image is None or task.alone or task.profile.subset is not None:
            return
        if not chosen(task.sha256, self._share):
            return
        pixels = task.pixels(self._live)
        with self._filled:
            room = len(self._waiting) < MOST_WAITING and (len(self._waiting) + 1) * pixels.nbytes <= _MOST_BYTES
            if room:
                self._waiting.append(_Seen(pixels, live))
                self._filled.notify()
            else:
                self._dropped += 1
        if not room:
            metrics.SHADOW_IMAGES.add(result="dropped")

    def give_way(self, reason: str = "a live model ran out of memory") -> None:
        """Switch off, and let go of what is held: the live line needs it."""
        self._switch_off(reason)

    @property
    def off(self) -> str | None:
        """Why it has switched itself off; None: it works."""
        return self._off

    def works(self) -> list[Reading]:
        """1 while it works, or else 0."""
        return [(float(self._off is None), {})]

    # ---- its own thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.begin()
            while not self._closed and self._off is None:
                self.step(0.2)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the live line goes on
            self._switch_off(printable(f"{type(error).__name__}: {error}")[:300])
        finally:
            self._warm.set()
            self._write()

    def begin(self) -> None:
        """Load the tagger and warm it up, for batches of one image.

        Raises:
            Misconfigured: it can't be compared with the live one, or a process died while it was at work.
            Exception: whatever it raises.
        """
        if self._mark.exists():
            self._report = known(self._path)
            raise Misconfigured(f"a process died while it was at work, perhaps of it; delete {self._mark} to try again")
        with self._at_work():
            tagger, profile = self._load()
            require_comparable(self._live, tagger)
            tagger.max_batch = 1
            tagger.warm_up()
        comparison = Comparison(self._live, self._live_profile, tagger, profile)
        with self._reporting:
            self._report = comparison.report(self._path, self._worker, self._now())
        self._comparison = comparison
        self._warm.set()

    def step(self, wait_s: float) -> None:
        """Compare one image, if there is one and its time has come; write the report, if it is due."""
        if (seen := self._next(wait_s)) and (comparison := self._comparison):
            with self._at_work() as started:
                tags = comparison.tags(seen.pixels)
            ended = self._clock.monotonic()
            self._rests_until = ended + (ended - started) * (1 / BUSY_SHARE - 1)
            with self._reporting:
                if self._report is not None and self._off is None:
                    comparison.count(self._report, seen.live, tags)
        if self._clock.monotonic() >= self._write_at:
            self._write()

    def _next(self, wait_s: float) -> _Seen | None:
        with self._filled:
            self._filled.wait_for(lambda: self._waiting or self._closed, wait_s)
            if not self._waiting:
                return None
            if not self._forbidden() and (self._clock.monotonic() >= self._rests_until or self._idle()):
                return self._waiting.popleft()
            self._filled.wait_for(lambda: self._closed, min(wait_s, _LOOK_S))
        return None

    @contextmanager
    def _at_work(self) -> Iterator[float]:
        """While the tagger runs: since when, for `watch`, and a file for the next process if this one dies of it."""
        self._mark.parent.mkdir(parents=True, exist_ok=True)
        self._mark.touch()
        started = self._since = self._clock.monotonic()
        try:
            yield started
        finally:
            self._since = None
            self._mark.unlink(missing_ok=True)

    # ---- any of these threads ---------------------------------------------------------------------------------

    def _switch_off(self, reason: str) -> None:
        with self._filled:
            if self._off is not None:
                return
            self._off = reason
            self._waiting.clear()
            self._comparison = None  # and its memory, once no call is in it
        _log.warning("the shadow tagger is switched off until the next start, and the live line goes on: %s", reason)

    def _write(self) -> None:
        with self._reporting:
            self._write_at = self._clock.monotonic() + WRITE_EVERY_S
            if self._report is None:
                return
            with self._filled:
                self._report.dropped += self._dropped
                self._dropped = 0
            self._report.until = self._now()
            if self._off is not None and not self._off_told:
                self._report.switched_off = [*self._report.switched_off, self._off][-100:]
                self._off_told = True
            try:
                self._report.write(self._path)
            except OSError as error:
                self._switch_off(f"its report {self._path} can't be written: {error.strerror}")

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.wall(), UTC)


def chosen(sha256: str, share: float) -> bool:
    """Whether an image of this content is among the share that a shadow sees; it is in every larger share too."""
    return int(sha256[:16], 16) < share * (1 << 64)
