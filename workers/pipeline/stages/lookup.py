"""The lookup stage: cache lookups, batched over all ready tasks.

A task comes here three times: with its event, with its object's bytes, and with the facts of those bytes. Computed
results come back here for the cache and for the equal images that wait for them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

from workers.errors import Rejected
from workers.pipeline.annotation import Annotation
from workers.pipeline.cache_entries import CacheWrite
from workers.pipeline.known_results import KnownResults
from workers.pipeline.progress import Place, TaskProgress
from workers.pipeline.stages.endings import Endings
from workers.pipeline.stages.equal import EqualImages
from workers.pipeline.stages.stage import QueueStage, StageQueue
from workers.pipeline.task import CompleteTask, DescribedTask, InspectedTask, LoadedTask, Task
from workers.types import Assignment

_BACKLOG = 1_000
"""Items in this thread's queue at which no record is admitted."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A task's results or rejection, for the cache and equal images."""

    values: dict[str, bytes]
    flight: Hashable | None
    answer: CompleteTask | Rejected


class LookupStage(QueueStage):
    """Reads and writes the cache: few round trips for many tasks."""

    places = (Place("lookup"), Place("wait-equal"))

    def __init__(self, results: KnownResults, progress: TaskProgress, endings: Endings) -> None:
        super().__init__("lookup")
        self._results = results
        self._progress = progress
        self._endings = endings
        # In this order: doubted results are not written, and committed or computed ones are found by the lookups
        # after them.
        self._doubted: StageQueue[Collection[str]] = self._queue(self._take_back)
        self._committed: StageQueue[Sequence[CacheWrite]] = self._queue(self._settle)
        self._computed: StageQueue[Computed] = self._queue(self._remember)
        self._events: StageQueue[Task] = self._queue(self._by_source)
        self._loaded: StageQueue[LoadedTask] = self._queue(self._verdicts)
        self._inspected: StageQueue[InspectedTask] = self._queue(self._by_content)

    def then(
        self,
        *,
        unknown: Callable[[Task], None],
        unrejected: Callable[[LoadedTask], None],
        uncomputed: Callable[[InspectedTask], None],
        complete: Callable[[Sequence[CompleteTask]], None],
    ) -> None:
        """Say what comes next.

        Args:
            unknown: takes a task that needs its object.
            unrejected: takes a task without a cached rejection; of equal images, one.
            uncomputed: takes a task that lacks results.
            complete: takes tasks with all their results.
        """
        self._fetch, self._decode, self._finish = unknown, uncomputed, complete
        self._equal = EqualImages(
            self._results.flight_key,
            self._progress,
            endings=self._endings,
            compute=unrejected,
            fetch_again=unknown,
            shared=lambda task: complete((task,)),
        )

    # ---- any thread -------------------------------------------------------------------------------------------

    def begin(self, tasks: Sequence[Task]) -> None:
        """Look up these tasks' facts and results by their events."""
        self._events.put(*tasks)

    def fetched(self, loaded: LoadedTask) -> None:
        """Look up an earlier rejection of the task's bytes."""
        self._progress.move(loaded.task, "lookup")
        self._loaded.put(loaded)

    def inspected(self, inspected: InspectedTask) -> None:
        """Look up a task's results by its content."""
        self._progress.move(inspected.task, "lookup")
        self._inspected.put(inspected)

    def keep(self, complete: CompleteTask) -> None:
        """Cache a task's results and share them. Call before the task ends.

        If no equal image waits, they are written at the thread's next lookup.
        """
        values = self._results.values(complete)
        flight = None if complete.failures else self._equal.hand_over(complete.task)
        if values or flight is not None:
            self._computed.add(Computed(values, flight, complete))
            if self._equal.awaited(flight):
                self.wake()

    def refuse(self, task: Task, sha256: str, error: Rejected) -> None:
        """Reject a task; equal images too if the bytes are the cause."""
        if values := self._results.verdict_values(sha256, error):
            self._computed.put(Computed(values, self._equal.hand_over(task), error))
        self._endings.reject(task, error)

    def committed(self, writes: Sequence[CacheWrite]) -> None:
        """Queue the cache writes of committed records for the next lookup. In ledger order."""
        self._committed.add(writes)

    def doubt(self, contents: Collection[str]) -> None:
        """Invalidate recent cache entries of these contents; drop queued writes."""
        self._doubted.put(contents)

    # ---- for the worker ---------------------------------------------------------------------------------------

    def holds_back(self, assignment: Assignment) -> bool:
        return len(self) >= _BACKLOG

    def wind_up(self) -> None:
        """Write the last commits to the cache, after the thread's end."""
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
                self._equal.share(item.flight, item.answer)

    def _by_source(self, tasks: Sequence[Task]) -> None:
        described = {
            task: DescribedTask(task, Annotation(task.event, task.profile, facts.sha256), facts, None)
            for task, facts in zip(tasks, self._results.sources(tasks), strict=True)
            if facts is not None
        }
        self._results.contents(list(described.values()))
        complete = {
            task: found for task, each in described.items() if (found := self._results.completed(each)) is not None
        }
        if complete:
            self._finish(list(complete.values()))
        for task in tasks:
            if task not in complete:
                self._fetch(task)

    def _verdicts(self, loaded: Sequence[LoadedTask]) -> None:
        """Reject tasks with a cached rejection before a decoder reads their bytes."""
        live = [each for each in loaded if self._endings.still_wanted(each.task)]
        for each, verdict in zip(live, self._results.verdicts(live), strict=True):
            if verdict is not None:
                self._endings.reject(each.task, verdict)
            else:
                self._equal.compute_once(each)

    def _by_content(self, inspected: Sequence[InspectedTask]) -> None:
        live = [each for each in inspected if self._endings.still_wanted(each.task)]
        self._results.contents(live)
        for each in live:
            complete = self._results.completed(each)
            if complete is not None:
                each.task.release("bytes", "encoded")
                self._finish((complete,))
            else:
                self._decode(each)
