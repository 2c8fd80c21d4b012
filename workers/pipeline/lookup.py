"""What was computed before is not computed again: the two levels of the cache, in batches.

Everything here runs on the lookup thread, except the few functions that touch no cache (named so). The cache never
raises: a miss is all that can go wrong.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

from schemas.image_event import ImageEvent
from workers import metrics
from workers.errors import Rejected
from workers.pipeline import cache_entries as entries
from workers.pipeline.annotate import guide_names
from workers.pipeline.cache_entries import CacheWrite
from workers.pipeline.task import Task
from workers.ports import Captioner, ResultCache, Tagger


class Lookup:
    """The cache as the line uses it.

    Args:
        tagger, captioner: whose results are kept; None where nothing of the kind runs on the device.
        store: the object store's endpoint, which the first level's entries name.
        judge: names what the rejection of an image depends on besides its bytes; empty: rejections are not kept.
    """

    def __init__(
        self,
        cache: ResultCache,
        tagger: Tagger | None,
        captioner: Captioner | None,
        store: str = "",
        judge: str = "",
    ) -> None:
        self._judge = judge
        self._cache = cache
        self._store = store
        self._tagger = tagger
        self._captioner = captioner
        self._tagger_key = entries.tagger_key(tagger) if tagger is not None else ""
        self._captioner_key = entries.captioner_key(captioner) if captioner is not None else ""

    # ---- what a task needs (touch no cache) ---------------------------------------------------------------------

    def needs_scores(self, task: Task) -> bool:
        return self._tagger is not None and (task.wants_tags or not task.event.options.guide_tags)

    def needs_caption(self, task: Task) -> bool:
        return self._captioner is not None and task.wants_caption

    def complete(self, task: Task) -> bool:
        """Is nothing left for the device to do?"""
        scored = task.scores is not None or not self.needs_scores(task)
        return scored and (task.caption is not None or not self.needs_caption(task))

    def flight_key(self, task: Task) -> Hashable:
        """Equal for two tasks exactly when one's results are the other's: scores of the same labels among them."""
        assert task.facts is not None
        needs_scores, needs_caption = self.needs_scores(task), self.needs_caption(task)
        guide: Hashable = ()
        if needs_caption:
            guide = task.event.options.guide_tags or task.profile.digest
        return (task.facts.sha256, needs_scores, needs_scores and task.profile.subset, needs_caption, guide)

    def values(self, task: Task) -> dict[str, bytes]:
        """What the content level should keep of a finished task: only what it did not have."""
        values: dict[str, bytes] = {}
        if task.facts is None:
            return values
        sha256 = task.facts.sha256
        if self._tagger is not None and task.scores is not None and not task.tags_hit:
            key = entries.scores_key(sha256, self._tagger_key, task.profile.subset)
            values[key] = entries.pack_scores(task.scores)
        if self._captioner is not None and task.caption is not None and task.guide is not None and not task.caption_hit:
            key = entries.caption_key(sha256, self._captioner_key, task.guide)
            values[key] = entries.pack_caption(task.caption)
        return values

    def verdict_values(self, sha256: str, verdict: Rejected) -> dict[str, bytes]:
        """What the content level should keep of a rejection: nothing, unless the bytes alone are at fault."""
        if not self._judge or verdict.reason not in entries.CERTAIN:
            return {}
        return {entries.verdict_key(sha256, self._judge): entries.pack_verdict(verdict)}

    def arrival(self, task: Task) -> CacheWrite:
        """What the source level is told once the task's outcome is committed."""
        event = task.event
        values, fields = self._newest(event), {}
        field = entries.source_field(event.version_id, event.etag)
        if field is not None and task.facts is not None and not task.source_hit:
            fields[(entries.source_hash(self._store, event), field)] = entries.pack_facts(task.facts)
        return CacheWrite(values, fields)

    def removal(self, event: ImageEvent) -> CacheWrite:
        return CacheWrite(self._newest(event), forget=(entries.source_hash(self._store, event),))

    def _newest(self, event: ImageEvent) -> Mapping[str, bytes]:
        return {entries.sequencer_key(self._store, event): event.sequencer.encode()} if event.sequencer else {}

    # ---- reading ------------------------------------------------------------------------------------------------

    def sources(self, tasks: Sequence[Task]) -> None:
        """Fill in `facts` from the first level, except where the cache knows a newer event of the object.

        The cache alone silences no event: such a task is to ask the store what the object is now (`only_newest`).
        """
        self._facts(tasks)
        sequenced = [task for task in tasks if task.event.sequencer]
        keys = [entries.sequencer_key(self._store, task.event) for task in sequenced]
        found = self._cache.lookup(keys) if keys else []
        for task, value in zip(sequenced, found, strict=True):
            known = entries.unpack_sequencer(value)
            _count_invalid(known is not None, [value])
            if known is not None and entries.is_newer(known, task.event):
                task.job = replace(task.job, only_newest=True)
                task.facts, task.source_hit = None, False

    def _facts(self, tasks: Sequence[Task]) -> None:
        wanted: list[tuple[Task, tuple[str, str]]] = []
        for task in tasks:
            field = entries.source_field(task.event.version_id, task.event.etag)
            if field is not None:
                wanted.append((task, (entries.source_hash(self._store, task.event), field)))
        found = self._cache.lookup_fields([place for _, place in wanted]) if wanted else []
        for (task, _), value in zip(wanted, found, strict=True):
            facts = entries.unpack_facts(value)
            _count_invalid(facts is not None, [value])
            task.facts = facts if facts is not None and entries.is_of(facts, task.event) else None
            task.source_hit = task.facts is not None
            _count("source", task.source_hit)

    def contents(self, tasks: Sequence[Task]) -> None:
        """Fill in `scores` and `caption` from the second level, for tasks whose content's hash is known."""
        self._scores([task for task in tasks if task.scores is None and self.needs_scores(task)])
        captioner = self._captioner
        if captioner is not None:
            self._captions(captioner, [task for task in tasks if task.caption is None and task.wants_caption])

    def _scores(self, tasks: Sequence[Task]) -> None:
        if not tasks or self._tagger is None:
            return
        keys = [self._scores_keys(task) for task in tasks]
        found = iter(self._cache.lookup([key for some in keys for key in some]))
        for task, some in zip(tasks, keys, strict=True):
            values = [next(found) for _ in some]
            known = (entries.unpack_scores(value, len(self._tagger.labels)) for value in values)
            task.scores = next((scores for scores in known if scores is not None), None)
            task.tags_hit = task.scores is not None
            _count("tags", task.tags_hit)
            _count_invalid(task.tags_hit, values)

    def _scores_keys(self, task: Task) -> list[str]:
        """Where the task's scores may be: those of its labels, or of all, of which its profile shows no others."""
        assert task.facts is not None
        wanted = dict.fromkeys((task.profile.subset, None))
        return [entries.scores_key(task.facts.sha256, self._tagger_key, subset) for subset in wanted]

    def _captions(self, captioner: Captioner, tasks: Sequence[Task]) -> None:
        asked: list[Task] = []
        keys: list[str] = []
        for task in tasks:
            guided = bool(task.event.options.guide_tags)
            if task.facts is None or not (guided or task.scores is not None or self._tagger is None):
                continue
            names = task.event.options.guide_tags or guide_names(task, self._tagger)
            task.guide = captioner.guide(names)
            asked.append(task)
            keys.append(entries.caption_key(task.facts.sha256, self._captioner_key, task.guide))
        found = self._cache.lookup(keys) if keys else []
        for task, value in zip(asked, found, strict=True):
            task.caption = entries.unpack_caption(value)
            task.caption_hit = task.caption is not None
            _count("caption", task.caption_hit)
            _count_invalid(task.caption_hit, [value])

    def verdicts(self, tasks: Sequence[Task]) -> list[Rejected | None]:
        """For each task with an object's bytes in hand the rejection that those bytes met before; None: none known."""
        if not self._judge or not tasks:
            return [None] * len(tasks)
        hashes = [task.fetched.sha256 for task in tasks if task.fetched is not None]
        values = self._cache.lookup([entries.verdict_key(sha256, self._judge) for sha256 in hashes])
        found = [entries.unpack_verdict(value) for value in values]
        for value, verdict in zip(values, found, strict=True):
            _count("verdict", verdict is not None)
            _count_invalid(verdict is not None, [value])
        return found

    # ---- writing ------------------------------------------------------------------------------------------------

    def remember(self, results: Sequence[Mapping[str, bytes]]) -> None:
        """Keep results by content. They are pure: any worker may write them, at any time."""
        values = {key: value for result in results for key, value in result.items()}
        if values:
            self._cache.remember(values, {})

    def settle(self, writes: Sequence[CacheWrite]) -> None:
        """Tell the source level what was committed, in ledger order: a later removal wins over an earlier arrival."""
        values: dict[str, bytes] = {}
        fields: dict[tuple[str, str], bytes] = {}
        forget: dict[str, None] = {}
        for write in writes:
            for gone in write.forget:
                fields = {place: value for place, value in fields.items() if place[0] != gone}
                forget[gone] = None
            values.update(write.values)
            fields.update(write.fields)
        if forget:
            self._cache.forget(list(forget))
        if values or fields:
            self._cache.remember(values, fields)


def _count(level: str, hit: bool) -> None:
    metrics.CACHE.add(level=level, answer="hit" if hit else "miss")


def _count_invalid(read: bool, values: Sequence[bytes | None]) -> None:
    """There were values, and none that could be read."""
    if not read and any(value is not None for value in values):
        metrics.CACHE_ERRORS.add(cause="invalid")
