"""Reads and writes the result cache, in batches.

Only the lookup thread uses the cache, except in functions that are marked as thread-safe. The cache never raises an
error: a failed lookup is a miss.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, TypeAlias

from schemas.image_event import ImageEvent
from workers import metrics
from workers.errors import Rejected
from workers.pipeline import cache_entries as entries
from workers.pipeline.cache_entries import CacheWrite
from workers.pipeline.roles import Result, Roles
from workers.pipeline.task import CompleteTask, DescribedTask, LoadedTask, Task
from workers.ports import ResultCache
from workers.rendition import NO_RENDITIONS, Rendition
from workers.types import Facts, Transform

_Ready: TypeAlias = tuple[DescribedTask, Result, Sequence[str]]
"""A result of a task, and its keys in the cache."""
_LATELY_S: Final = 90.0
"""Age in seconds up to which `doubt` invalidates a write."""
_DOUBTED_S: Final = 600.0
"""After `doubt`, results of these images are not written for this many seconds."""


@dataclass(eq=False)
class KnownResults:
    """The cache of facts, results and rejections of images.

    Args:
        store: endpoint of the object store, a part of some keys.
        unproven: the number of latest results that `disown` can invalidate.
        rendition: facts of a rendition that has another place by now are a miss.
        purges: a removal also drops the object's sequencer and the results of its contents.
    """

    cache: ResultCache
    roles: Roles
    store: str = ""
    judge: str = ""
    allows: Callable[[Facts], bool] = lambda _: True
    scale_of: Callable[[tuple[Transform, ...]], Callable[[Facts], int]] = lambda _: lambda _: 1
    unproven: int = 0
    purges: bool = False
    rendition: Rendition = NO_RENDITIONS
    now: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        scales = {transforms: self.scale_of(transforms) for transforms in set(self.roles.decoded_for.values())}
        self._scales = {name: scales[transforms] for name, transforms in self.roles.decoded_for.items()}
        self._unproven: dict[str, None] = {}
        self._disowned = False
        self._writing = threading.Lock()
        self._lately: OrderedDict[str | tuple[str, str], tuple[float, str]] = OrderedDict()
        """Recent writes: the time and the SHA-256 of the image, by key."""
        self._doubted: dict[str, float] = {}
        """The time until which results of an image are not written, by its SHA-256."""

    # ---- without cache access -----------------------------------------------------------------------------------

    def completed(self, task: DescribedTask) -> CompleteTask | None:
        """The task, if it has all needed results; else None."""
        lacking = self.roles.lacking(task.annotation)
        return None if lacking else CompleteTask(task.task, task.annotation, task.facts, task.date)

    def values(self, task: CompleteTask) -> dict[str, bytes]:
        """Cache entries for the computed results of a task, by key."""
        results, computed = task.annotation.results, computed_for(task, self.roles.results)
        return {self._keys(role, task)[0]: role.pack(results[role.name]) for role in computed}

    def _keys(self, role: Result, task: DescribedTask) -> Sequence[str]:
        """Cache keys of a role's result; they name the coarsest scale that its image may be decoded at."""
        scale = self._scales[role.name](task.facts)
        keys = self.roles.cache_keys(role, task.annotation)
        return keys if scale == 1 else [f"{key}:scale=1/{scale}" for key in keys]

    def verdict_values(self, sha256: str, verdict: Rejected) -> dict[str, bytes]:
        """The cache entry of a rejection; empty unless the bytes caused it."""
        if not self.judge or verdict.reason not in entries.CERTAIN:
            return {}
        return {entries.verdict_key(sha256, self.judge): entries.pack_verdict(verdict)}

    def arrival(self, task: CompleteTask) -> CacheWrite:
        """The write of an object's facts, to make after the commit."""
        event = task.task.event
        known = task.task.source_hit and task.task.reads_copy is None  # else what is read may be another copy by now
        if known and not event.sequencer:
            return entries.NOTHING
        values, fields = self._newest(event), {}
        if not known:
            place, facts = entries.source_hash(self.store, event), entries.pack_facts(task.facts)
            fields = {(place, field): facts for field in entries.source_fields(event)}
        return CacheWrite(values, fields, content=task.facts.sha256)

    def removal(self, event: ImageEvent) -> CacheWrite:
        """The deletion of an object's facts, to make after the commit."""
        source = entries.source_hash(self.store, event)
        if self.purges:
            return CacheWrite(forget=(source, entries.sequencer_key(self.store, event)))
        return CacheWrite(self._newest(event), forget=(source,))

    def _newest(self, event: ImageEvent) -> Mapping[str, bytes]:
        return {entries.sequencer_key(self.store, event): event.sequencer.encode()} if event.sequencer else {}

    # ---- reading ------------------------------------------------------------------------------------------------

    def sources(self, tasks: Sequence[Task]) -> list[Facts | None]:
        """Look up the facts of each task's object; None: a miss, or the event is old.

        An event is old if a newer event of its object was committed. Then the fetch checks the object (`only_newest`).
        """
        facts = self._facts(tasks)
        sequenced = [(number, task) for number, task in enumerate(tasks) if task.event.sequencer]
        keys = [entries.sequencer_key(self.store, task.event) for _, task in sequenced]
        found = self.cache.lookup(keys) if keys else []
        asked = _Answers()
        for (number, task), value in zip(sequenced, found, strict=True):
            known = entries.unpack_sequencer(value)
            asked.add(known is not None, [value])
            if known is not None and entries.is_newer(known, task.event):
                task.job = replace(task.job, only_newest=True)
                facts[number] = None
        asked.count_invalid()
        for task, known_facts in zip(tasks, facts, strict=True):
            task.source_hit = known_facts is not None
        return facts

    def _facts(self, tasks: Sequence[Task]) -> list[Facts | None]:
        known: list[Facts | None] = [None] * len(tasks)
        wanted: list[tuple[int, tuple[str, str]]] = []
        for number, task in enumerate(tasks):
            for field in entries.source_fields(task.event)[:1]:
                wanted.append((number, (entries.source_hash(self.store, task.event), field)))
        found = self.cache.lookup_fields([place for _, place in wanted]) if wanted else []
        asked = _Answers()
        for (number, _), value in zip(wanted, found, strict=True):
            facts = entries.unpack_facts(value)
            event = tasks[number].event
            serves = (
                facts is not None
                and entries.is_of(facts, event)
                and self.rendition.gives(event.bucket, event.key, facts.original)
                and self.allows(facts)
            )
            known[number] = facts if serves else None
            asked.add(facts is not None, [value], hit=serves)
        asked.count("source")
        return known

    def contents(self, tasks: Sequence[DescribedTask]) -> None:
        """Look up the missing results of these tasks, and fill them in.

        One call asks for all of them, but for those whose keys depend on others.
        """
        lacking = [(task, role) for task in tasks for role in self.roles.lacking(task.annotation)]
        while lacking:
            ready, waiting = list[_Ready](), list[tuple[DescribedTask, Result]]()
            for task, role in lacking:
                if keys := self._keys(role, task):
                    ready.append((task, role, keys))
                else:
                    waiting.append((task, role))
            if not ready:
                return
            self._results(ready)
            lacking = waiting

    def _results(self, ready: Sequence[_Ready]) -> None:
        found = self.cache.lookup([key for _, _, keys in ready for key in keys])
        answers: defaultdict[str, _Answers] = defaultdict(_Answers)
        end = 0
        for task, role, keys in ready:
            start, end = end, end + len(keys)
            for value in found[start:end]:
                result = role.unpack(value)
                if result is not None:
                    task.annotation.results[role.name] = result
                    task.annotation.hits.add(role.name)
                    break
            answers[role.name].add(result is not None, found[start:end])
        for name, each in answers.items():
            each.count(name)

    def verdicts(self, tasks: Sequence[LoadedTask]) -> list[Rejected | None]:
        """Look up the rejection of each task's bytes; None: a miss."""
        if not self.judge or not tasks:
            return [None] * len(tasks)
        values = self.cache.lookup([entries.verdict_key(task.fetched.sha256, self.judge) for task in tasks])
        found = [entries.unpack_verdict(value) for value in values]
        asked = _Answers()
        for value, verdict in zip(values, found, strict=True):
            asked.add(verdict is not None, [value])
        asked.count("verdict")
        return found

    # ---- writing ------------------------------------------------------------------------------------------------

    def remember(self, results: Sequence[Mapping[str, bytes]]) -> None:
        """Write computed results and rejections."""
        values = {
            key: value
            for result in results
            for key, value in result.items()
            if not self._is_doubted(entries.content_of(key))
        }
        with self._writing:
            if values and not self._disowned:
                index = {(entries.index_hash(entries.content_of(key)), key): b"1" for key in values if self.purges}
                self.cache.remember(values, index)
                self._note_unproven(values)
                self._note_lately({key: entries.content_of(key) for key in values})

    def is_purged(self, content: str) -> bool:
        """Whether a removal has purged the image's results: no later one would purge what is written now."""
        return self.purges and not any(self.cache.hashes([entries.index_hash(content)]))

    def doubt(self, contents: Set[str]) -> None:
        """Invalidate recent writes about these images, and make no new ones.

        Their decoder may have returned wrong pixels. After `_DOUBTED_S` seconds, new writes are allowed again.
        """
        self._note_lately({})
        now = self.now()
        self._doubted = {content: until for content, until in self._doubted.items() if until > now}
        self._doubted |= dict.fromkeys(contents, now + _DOUBTED_S)
        wrong = [place for place, (_, content) in self._lately.items() if content in contents]
        for place in wrong:
            del self._lately[place]
        values = {place: b"" for place in wrong if isinstance(place, str)}
        fields = {place: b"" for place in wrong if not isinstance(place, str)}
        if wrong:
            self.cache.remember(values, fields)

    def _is_doubted(self, content: str) -> bool:
        return self._doubted.get(content, 0.0) > self.now() if self._doubted else False

    def _note_lately(self, places: Mapping[Any, str]) -> None:
        now = self.now()
        for place, content in places.items():
            self._lately[place] = now, content
            self._lately.move_to_end(place)
        while self._lately and next(iter(self._lately.values()))[0] < now - _LATELY_S:
            self._lately.popitem(last=False)

    def _note_unproven(self, keys: Iterable[str]) -> None:
        if self.unproven:
            self._unproven.update(dict.fromkeys(keys))
        for oldest in list(islice(self._unproven, max(0, len(self._unproven) - self.unproven))):
            del self._unproven[oldest]

    def prove(self) -> None:
        """Trust all results so far: the device passed its self-test. Thread-safe."""
        with self._writing:
            self._unproven.clear()

    def disown(self) -> None:
        """Invalidate all results since `prove`, and write no more. Thread-safe."""
        with self._writing:
            self._disowned = True
            self.cache.remember(dict.fromkeys(self._unproven, b""), {})

    def settle(self, writes: Sequence[CacheWrite]) -> None:
        """Make the writes of committed records, in ledger order."""
        values: dict[str, bytes] = {}
        hashes: dict[str, dict[tuple[str, str], bytes]] = {}
        contents: dict[tuple[str, str], str] = {}
        forget: dict[str, None] = {}
        purged: set[str] = set()
        for write in writes:
            for gone in write.forget:
                purged |= {contents[place] for place in hashes.pop(gone, ())}
                values.pop(gone, None)
                forget[gone] = None
            values.update(write.values)
            if self._is_doubted(write.content):
                continue
            for place, value in write.fields.items():
                hashes.setdefault(place[0], {})[place] = value
                contents[place] = write.content
        if forget:
            self.cache.forget([*forget, *(self._results_of(list(forget), purged) if self.purges else ())])
        if values or hashes:
            self.cache.remember(values, {place: value for fields in hashes.values() for place, value in fields.items()})
            self._note_lately(contents)

    def _results_of(self, sources: Sequence[str], more: Set[str]) -> Iterator[str]:
        """Keys of the results of the hashes' and `more` contents."""
        values = [value for found in self.cache.hashes(sources) for value in found.values()]
        named = {facts.sha256 for value in values if (facts := entries.unpack_facts(value)) is not None}
        contents = list(named | more)
        indexes = [entries.index_hash(content) for content in contents]
        for content, index, keys in zip(contents, indexes, self.cache.hashes(indexes), strict=True):
            yield index
            yield from (key for key in keys if entries.content_of(key) == content)


def computed_for(task: CompleteTask, roles: Sequence[Result]) -> list[Result]:
    """The roles whose result was computed for this task."""
    results, hits = task.annotation.results, task.annotation.hits
    return [role for role in roles if role.name in results and role.name not in hits]


class _Answers:
    """Counts the lookups of a batch for the metrics, with few calls."""

    def __init__(self) -> None:
        self._hits = self._misses = self._invalid = 0

    def add(self, read: bool, values: Sequence[bytes | None], *, hit: bool | None = None) -> None:
        """Note a lookup; `hit` says whether the valid value can be used, None that it can."""
        served = read if hit is None else hit
        self._hits += served
        self._misses += not served
        self._invalid += not read and any(value is not None for value in values)

    def count(self, level: str) -> None:
        for answer, number in (("hit", self._hits), ("miss", self._misses)):
            if number:
                metrics.CACHE.add(number, level=level, answer=answer)
        self.count_invalid()

    def count_invalid(self) -> None:
        if self._invalid:
            metrics.CACHE_ERRORS.add(self._invalid, cause="invalid")
