"""The lookup stage: reads and writes the cache.

A task passes this stage three times: with its event, with the bytes of its object, and with the facts in the image's
header. Computed results return here, for the cache and for equal images.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

from workers.errors import Rejected
from workers.pipeline.annotation import Annotation
from workers.pipeline.cache_entries import CacheWrite
from workers.pipeline.known_results import KnownResults, computed_for
from workers.pipeline.progress import Place, TaskProgress
from workers.pipeline.stages.endings import Endings
from workers.pipeline.stages.equal import EqualImages
from workers.pipeline.stages.stage import QueueStage, StageQueue
from workers.pipeline.task import CompleteTask, DescribedTask, InspectedTask, LoadedTask, Task
from workers.types import Assignment

_BACKLOG = 1_000
"""If this many items wait in this thread's queues, no record is admitted."""


@dataclass(frozen=True, slots=True)
class Computed:
    """The results of a task, or its rejection.

    Args:
        values: cache entries to write.
        flight: equal images that share the answer (see `EqualImages`); None: the task has no flight.
        late: the content of an image that has ended.
    """

    values: dict[str, bytes]
    flight: Hashable | None
    answer: CompleteTask | Rejected
    late: str = ""


class LookupStage(QueueStage):
    """Reads and writes the cache in batches."""

    places = (Place("lookup"), Place("wait-equal", waits_on_others=True))  # its leader counts, unless it waits too

    fetch: Callable[[Task], None]
    """Continues with a task that needs its object."""
    inspect: Callable[[LoadedTask], None]
    """Continues with a fetched image; equal images wait for it."""
    decode: Callable[[InspectedTask], None]
    """Continues with an image that lacks results."""
    finish: Callable[[Sequence[CompleteTask]], None]

    def __init__(self, results: KnownResults, progress: TaskProgress, endings: Endings, lanes: bool = False) -> None:
        super().__init__("lookup", lanes)
        self._results = results
        self._progress = progress
        self._endings = endings
        # The order of the queues matters: invalidations come before writes, results before removals that may purge
        # them, and writes before lookups.
        self._doubted: StageQueue[Collection[str]] = self._queue(self._invalidate)
        self._computed: StageQueue[Computed] = self._queue(self._write_computed)
        self._committed: StageQueue[Sequence[CacheWrite]] = self._queue(self._write_committed)
        self.events: StageQueue[Task] = self._lane_queue(self._by_source, lambda task: task.background)
        self._loaded: StageQueue[LoadedTask] = self._lane_queue(self._find_rejections, _waits)
        self._inspected: StageQueue[InspectedTask] = self._lane_queue(self._by_content, _waits)
        self._equal = EqualImages(
            results.roles.flight_key,
            progress,
            endings=endings,
            compute=lambda loaded: self.inspect(loaded),
            fetch_again=lambda task: self.fetch(task),
            shared=lambda task: self.finish((task,)),
        )

    # ---- any thread -------------------------------------------------------------------------------------------

    def begin(self, tasks: Sequence[Task]) -> None:
        """Look up facts and results by object version."""
        self.events.put(*tasks)

    def fetched(self, loaded: LoadedTask) -> None:
        """Look up an earlier rejection of the bytes."""
        self._progress.move(loaded.task, "lookup")
        self._loaded.put(loaded)

    def inspected(self, inspected: InspectedTask) -> None:
        """Look up results by the hash of the bytes."""
        self._progress.move(inspected.task, "lookup")
        self._inspected.put(inspected)

    def keep(self, complete: CompleteTask) -> None:
        """Cache the results of a task, and give them to equal images.

        Call it before the task ends. Results that cost money, or for which an equal image waits, are written at once,
        others with the lookup thread's next batch.
        """
        values = self._results.values(complete)
        flight = None if complete.failures else self._equal.hand_over(complete.task)
        if values or flight is not None:
            self._computed.add(Computed(values, flight, complete))
            if self._equal.awaited(flight) or computed_for(complete, self._results.roles.waiting):
                self.wake()

    def keep_late(self, complete: CompleteTask) -> None:
        """Cache results that came late, unless a purge came before. Thread-safe."""
        self._computed.put(Computed(self._results.values(complete), None, complete, late=complete.facts.sha256))

    def refuse(self, task: Task, sha256: str, error: Rejected) -> None:
        """Reject a task, and equal images if the bytes are the cause."""
        if values := self._results.verdict_values(sha256, error):
            self._computed.put(Computed(values, self._equal.hand_over(task), error))
        self._endings.reject(task, error)

    def committed(self, writes: Sequence[CacheWrite]) -> None:
        """Queue cache writes of committed records, in ledger order."""
        self._committed.add(writes)

    def doubt(self, contents: Collection[str]) -> None:
        """Invalidate recent cache entries of these SHA-256 hashes."""
        self._doubted.put(contents)

    # ---- for the worker ---------------------------------------------------------------------------------------

    def holds_back(self, assignment: Assignment) -> bool:
        return len(self) >= _BACKLOG

    def wind_up(self) -> None:
        self._invalidate(self._doubted.take(len(self._doubted)))
        self._write_computed(self._computed.take(len(self._computed)))
        self._write_committed(self._committed.take(len(self._committed)))

    # ---- lookup thread ----------------------------------------------------------------------------------------

    def _invalidate(self, doubted: Sequence[Collection[str]]) -> None:
        self._results.doubt({content for contents in doubted for content in contents})

    def _write_committed(self, committed: Sequence[Sequence[CacheWrite]]) -> None:
        self._results.settle([write for writes in committed for write in writes])

    def _write_computed(self, computed: Sequence[Computed]) -> None:
        self._results.remember(
            [item.values for item in computed if not item.late or not self._results.is_purged(item.late)]
        )
        for item in computed:
            if item.flight is not None:
                self._equal.share(item.flight, item.answer)

    def _by_source(self, tasks: Sequence[Task]) -> None:
        described = {
            task: DescribedTask(task, Annotation.begin(task.event, task.profile, facts), facts, None)
            for task, facts in zip(tasks, self._results.sources(tasks), strict=True)
            if facts is not None
        }
        self._results.contents(list(described.values()))
        complete = {
            task: found for task, each in described.items() if (found := self._results.completed(each)) is not None
        }
        if complete:
            self.finish(list(complete.values()))
        for task in tasks:
            if task not in complete:
                self.fetch(task)

    def _find_rejections(self, loaded: Sequence[LoadedTask]) -> None:
        """Reject known bad bytes before a decoder reads them."""
        live = [each for each in loaded if self._endings.still_wanted(each.task)]
        for each, rejection in zip(live, self._results.verdicts(live), strict=True):
            if rejection is not None:
                self._endings.reject(each.task, rejection)
            else:
                self._equal.compute_once(each)

    def _by_content(self, inspected: Sequence[InspectedTask]) -> None:
        live = [each for each in inspected if self._endings.still_wanted(each.task)]
        self._results.contents(live)
        for each in live:
            complete = self._results.completed(each)
            if complete is not None:
                each.task.release("bytes", "encoded")
                self.finish((complete,))
            else:
                self.decode(each)


def _waits(each: LoadedTask | InspectedTask) -> bool:
    return each.task.background
