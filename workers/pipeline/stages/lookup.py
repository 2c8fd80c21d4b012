"""The lookup stage: cache lookups, batched over all ready tasks.

A task comes here three times: by its event, with its object's bytes in hand, and with the facts of those bytes. What
was computed comes back here to be remembered, and is handed to the equal images that wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from itertools import compress

from workers.errors import Rejected
from workers.pipeline.cache_entries import CacheWrite
from workers.pipeline.flow.queue import StageQueue
from workers.pipeline.known_results import KnownResults
from workers.pipeline.progress import Place, TaskProgress
from workers.pipeline.stages.endings import Endings
from workers.pipeline.stages.equal import EqualImages
from workers.pipeline.stages.stage import QueueStage
from workers.pipeline.task import Task
from workers.types import Assignment

_BACKLOG = 1_000
"""What waits before this thread beyond which no record is admitted."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A task's results, for the cache and the images waiting for `flight`.

    Args:
        verdict: the result is that the image is rejected.
    """

    task: Task
    values: dict[str, bytes]
    flight: Hashable | None
    verdict: Rejected | None = None


class LookupStage(QueueStage):
    """Everything that concerns the cache: few round trips for many tasks.

    Args:
        fetch: takes a task whose object has to be read.
        inspect: takes one whose bytes were not rejected before; of equal images, one.
        decode: takes one whose results are to be computed.
        complete: takes those that have all their results.
    """

    places = (Place("lookup"), Place("wait-equal"))

    def __init__(
        self,
        results: KnownResults,
        progress: TaskProgress,
        *,
        endings: Endings,
        fetch: Callable[[Task], None],
        inspect: Callable[[Task], None],
        decode: Callable[[Task], None],
        complete: Callable[[Sequence[Task]], None],
    ) -> None:
        super().__init__("lookup")
        self._results = results
        self._progress = progress
        self._endings = endings
        self._fetch = fetch
        self._decode = decode
        self._finish = complete
        self._equal = EqualImages(results.flight_key, progress, endings=endings, compute=inspect, shared=self._share)
        # In this order: what is doubted is not kept, and what was committed or computed by now is found by those that
        # look it up.
        self._doubted: StageQueue[Collection[str]] = self._queue(self._take_back)
        self._committed: StageQueue[Sequence[CacheWrite]] = self._queue(self._settle)
        self._computed: StageQueue[Computed] = self._queue(self._remember)
        self._events: StageQueue[Task] = self._queue(self._by_source)
        self._fetched: StageQueue[Task] = self._queue(self._verdicts)
        self._inspected: StageQueue[Task] = self._queue(self._by_content)

    # ---- any thread -------------------------------------------------------------------------------------------

    def begin(self, tasks: Sequence[Task]) -> None:
        """Look for these tasks' facts and results, by their events."""
        self._events.put(*tasks)

    def fetched(self, task: Task) -> None:
        """Look whether its bytes were rejected before."""
        self._progress.move(task, "lookup")
        self._fetched.put(task)

    def inspected(self, task: Task) -> None:
        """Look for its results, by its content."""
        self._progress.move(task, "lookup")
        self._inspected.put(task)

    def keep(self, task: Task) -> None:
        """Remember what was computed for it, and share it. Before the task ends.

        Where no equal image waits for it, that has time until this thread looks something up: every look-up finds it.
        """
        values = self._results.values(task)
        flight = None if task.failures else self._equal.hand_over(task)
        if values or flight is not None:
            self._computed.add(Computed(task, values, flight))
            if self._equal.awaited(flight):
                self.wake()

    def refuse(self, task: Task, sha256: str, error: Rejected) -> None:
        """The intake rejects these bytes: if they alone are why, so it does for every equal image, now and later."""
        if values := self._results.verdict_values(sha256, error):
            self._computed.put(Computed(task, values, self._equal.hand_over(task), error))
        self._endings.reject(task, error)

    def committed(self, writes: Sequence[CacheWrite]) -> None:
        """Queue the cache writes of committed records for the next lookup. In ledger order."""
        self._committed.add(writes)

    def doubt(self, contents: Collection[str]) -> None:
        """Remove recent cache entries of these contents, and drop the queued ones."""
        self._doubted.put(contents)

    # ---- for the worker ---------------------------------------------------------------------------------------

    def holds_back(self, assignment: Assignment) -> bool:
        return len(self) >= _BACKLOG

    def wind_up(self) -> None:
        """What the last commits tell the cache comes after the thread's end."""
        self._take_back(self._doubted.take(len(self._doubted)))
        self._settle(self._committed.take(len(self._committed)))
        self._remember(self._computed.take(len(self._computed)))

    # ---- lookup thread ----------------------------------------------------------------------------------------

    def _take_back(self, doubted: Sequence[Collection[str]]) -> None:
        self._results.doubt({content for contents in doubted for content in contents})

    def _settle(self, committed: Sequence[Sequence[CacheWrite]]) -> None:
        self._results.settle([write for writes in committed for write in writes])

    def _remember(self, computed: Sequence[Computed]) -> None:
        self._results.remember([item.values for item in computed])
        for item in computed:
            if item.flight is not None:
                self._equal.share(item.task, item.flight, item.verdict)

    def _share(self, task: Task) -> None:
        self._finish((task,))

    def _by_source(self, tasks: Sequence[Task]) -> None:
        self._results.sources(tasks)
        self._results.contents([task for task in tasks if task.facts is not None])
        found = [task.facts is not None and self._results.complete(task) for task in tasks]
        if any(found):
            self._finish(list(compress(tasks, found)))
        for task, complete in zip(tasks, found, strict=True):
            if not complete:
                self._fetch(task)

    def _verdicts(self, tasks: Sequence[Task]) -> None:
        """Reject again the bytes that were rejected before, before anything reads them."""
        live = [task for task in tasks if self._endings.still_wanted(task)]
        for task, verdict in zip(live, self._results.verdicts(live), strict=True):
            if verdict is not None:
                self._endings.reject(task, verdict)
            else:
                self._equal.compute_once(task)

    def _by_content(self, tasks: Sequence[Task]) -> None:
        live = [task for task in tasks if self._endings.still_wanted(task)]
        self._results.contents(live)
        for task in live:
            if self._results.complete(task):
                task.release("bytes", "encoded")
                self._finish((task,))
            else:
                self._decode(task)
