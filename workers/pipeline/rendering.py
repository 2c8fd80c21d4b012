"""Builds outcomes from results, and messages from outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import BaseModel

from schemas import writing
from schemas.dead_letter import PARTIAL_ALONE, Failure
from schemas.enriched_image import (
    Cache,
    EventRef,
    GoneSource,
    HitOrMiss,
    Models,
    Retraction,
    Skip,
    SkipReason,
    Status,
    Thresholds,
    enriched_id,
    version_key,
)
from schemas.image_event import ImageEvent
from schemas.options import WANTS, Options
from schemas.stored_scores import STORED_HEADERS
from schemas.text import version_or_none
from schemas.version import VERSION_HEADER, version_of
from workers.pipeline.annotation import Annotation
from workers.pipeline.commit.ledger import Entry, Rendered
from workers.pipeline.dead_letters import dead_letters
from workers.pipeline.facts import FACTS, image_of
from workers.pipeline.identity import model_ref, reference
from workers.pipeline.kind_role import AddedRole
from workers.pipeline.options import WorkerOptions
from workers.pipeline.roles import Roles
from workers.pipeline.task import AnnotatedTask, CompleteTask
from workers.ports import Clock
from workers.types import Content, Coordinates, Document, Facts, Headers, Message, Outcome, OutcomeKind, PictureFacts

_CACHED = tuple(Cache.model_fields)


class Renderer:
    def __init__(
        self, roles: Roles, options: WorkerOptions, max_message_bytes: Mapping[str, int], clock: Clock
    ) -> None:
        self._roles = roles
        self._options = options
        self._limits = max_message_bytes
        self._clock = clock
        self._models = Models(**{role.use: model_ref(role.model) for role in roles.kept if role.name in WANTS})
        self._models_written = self._models.model_dump()
        self._added = {role.name: role for role in roles.kept if isinstance(role, AddedRole)}

    def postprocess(self, task: AnnotatedTask) -> CompleteTask:
        """Turn the models' raw answers into results.

        Raises:
            ValueError: an answer contains NaN.
            Broken: an answer is invalid.
        """
        image, decoded, failures = task.attempt.annotation, task.decoded, task.attempt.failures
        for role in self._roles.models:
            answer = task.attempt.answers.get(role.name)
            if answer is not None and role.name not in image.results:
                image.results[role.name] = role.finish(answer)
        return CompleteTask(decoded.task, image, decoded.facts, decoded.date, tuple(failures.values()))

    def outcomes(self, complete: CompleteTask) -> tuple[Outcome, ...]:
        """The outcomes of a task: an enriched image, failures, or both."""
        task = complete.task
        if task.entry.full:
            return (_too_much(task.job.coordinates.index),)
        lost = tuple(failure for failure in complete.failures if failure.want in self._roles.essential)
        if lost:
            return lost
        failures = (*complete.failures, *complete.unanswered, *self._roles.refusals(complete.annotation))
        document = self.enriched(
            complete.annotation,
            complete.facts,
            task.job.coordinates,
            self._version(complete),
            failures=failures,
            timings_ms=task.timings_ms,
            cache=self._cache(complete),
            stored=tuple([header for role in self._roles.models if (header := role.header(complete.annotation))]),
        )
        return (document, *(failure for failure in failures if failure.reason not in PARTIAL_ALONE))

    def retraction(self, where: Coordinates, event: ImageEvent, timestamp_ms: int, date: str | None = None) -> Document:
        """Build a retraction; `date` is that of the store's answer, if it gave one."""
        version = version_of(event.event_time, date=date, timestamp_ms=timestamp_ms, now_s=self._clock.wall())
        key = event.subject.encode()
        if event.versioned_removal:
            key = version_key(event.bucket, event.key, event.version_id or "")
        gone = Retraction(
            subject=event.subject,
            document_id=key.decode(),
            version=version,
            scope="version" if event.versioned_removal else "object",
            event=EventRef(**_event_ref(where, event)),
            source=GoneSource(
                bucket=event.bucket, key=event.key, version_id=event.version_id, sequencer=event.sequencer
            ),
            produced_at=moment(self._clock.wall()),
        )
        tombstone = self._options.tombstones and not event.versioned_removal
        return Document("retraction", key, gone.to_bytes(), version=version, tombstone=tombstone)

    def skip(
        self, where: Coordinates, event: ImageEvent | None, reason: SkipReason, subject: str | None = None
    ) -> Document:
        named = event.subject if event is not None else subject
        skipped = Skip(event=EventRef(**_event_ref(where, event)), subject=named, reason=reason)
        return Document("skip", skipped.message_key, skipped.to_bytes(), reason)

    def enriched(
        self,
        image: Annotation,
        facts: Facts,
        where: Coordinates,
        version: int,
        *,
        failures: Sequence[Failure] = (),
        timings_ms: Mapping[str, float],
        cache: Mapping[str, HitOrMiss | None],
        stored: Headers = (),
        models: Models | None = None,
    ) -> Document:
        """Build an enriched image. All values were checked before.

        Args:
            cache: `hit` or `miss` by role, and of `source`; null: no lookup was made.
            stored: headers that store results for `tagstream retag`.
            models: the models that made the results; None: this worker's.
        """
        event, subject = image.event, image.event.subject
        status: Status = "partial" if failures else "complete"
        version_id = version_or_none(facts.version_id) or event.version_id
        thresholds = Thresholds(profile=image.profile.name, digest=image.profile.digest)
        parts = self.parts(image)
        added = parts.pop("results", {})
        results = {name: writing.added_result(**each, cache=cache.get(name)) for name, each in added.items()}
        fields = writing.enriched_image(
            id=enriched_id(
                bucket=event.bucket,
                key=event.key,
                version_id=version_id,
                etag=facts.etag,
                sequencer=event.sequencer,
                event_id=event.id,
                models=models or self._models,
                thresholds=thresholds,
                options=event.options,
                status=status,
                corrections=parts.get("corrections"),
                results={name: each["model"]["digest"] for name, each in added.items()},
            ),
            subject=subject,
            document_id=subject,
            version=version,
            status=status,
            reason=failures[0].reason if failures else None,
            missing=[{"want": each.want, "reason": each.reason} for each in failures] or None,
            event=_event_ref(where, event),
            source=_source(event, facts, version_id, image.results.get(FACTS)),
            image=image_of(facts, image.results.get(FACTS)),
            options=_options(event.options),
            models=self._models_written if models is None else models.model_dump(),
            thresholds={"profile": thresholds.profile, "digest": thresholds.digest},
            timings_ms=timings_ms,
            produced_at=moment(self._clock.wall()),
            cache=writing.cache(**{name: cache[name] for name in _CACHED if name in cache}),
            results=results or None,
            **parts,
        )
        kind: OutcomeKind = "enriched" if status == "complete" else "partial"
        content = content_of(
            parts["tags"] if "tags" in event.options.want else None,
            parts.get("caption"),
            {name: self._added[name].words(each) for name, each in added.items()},
        )
        return Document(kind, subject.encode(), _json(fields), content=content, version=version, stored=stored)

    def parts(self, image: Annotation) -> dict[str, Any]:
        """The output fields of all roles; results of added kinds without `cache`."""
        parts: dict[str, Any] = {"tags": ()}
        for role in self._roles.all:
            parts.update(role.render(image))
        if wanted := image.event.options.results:
            known = self._added.keys() & image.results
            parts["results"] = {name: image.results[name] for name in wanted if name in known}
        return parts

    def _version(self, complete: CompleteTask) -> int:
        task = complete.task
        return version_of(
            task.event.event_time,
            last_modified=complete.facts.last_modified,
            # A response for one version id does not show that this version is the current one.
            date=complete.date if task.event.version_id is None else None,
            timestamp_ms=task.entry.record.timestamp_ms,
            now_s=self._clock.wall(),
        )

    def _cache(self, complete: CompleteTask) -> Mapping[str, HitOrMiss | None]:
        image = complete.annotation
        event, hits, results = image.event, image.hits, image.results
        shown = [role.name for role in self._roles.kept if role.name in results and self._roles.wants(image, role)]
        levels = {name: _hit(name in hits) for name in shown}
        source = _hit(complete.task.source_hit) if event.version_id or event.etag else None
        return {"source": source, **levels}

    def rendered(self, entry: Entry, index: int, outcomes: Sequence[Outcome]) -> tuple[Rendered | Failure, ...]:
        """Build the messages of one event; failures stay for the dead letter.

        If the record's outcomes are too large, these messages lose their stored results, or become a failure.
        """
        made = tuple(
            outcome if isinstance(outcome, Failure) else self._rendered(entry, index, outcome) for outcome in outcomes
        )
        if (size := _size(made)) > entry.room:
            made = tuple(outcome if isinstance(outcome, Failure) else _lighter(outcome) for outcome in made)
            size = _size(made)
        return made if not size or entry.take_outcomes(size) else (_too_much(index),)

    def messages(self, entry: Entry) -> list[Message]:
        """The messages of one record: outcomes in the order of its events, then the dead letter.

        A message that is too large for its topic loses its stored results, or becomes a failure.
        """
        messages: list[Message] = []
        for index in sorted(entry.outcomes):
            outcomes: list[Rendered | Failure] = []
            for outcome in entry.outcomes[index]:
                if isinstance(outcome, Failure) or outcome.message is None:
                    outcomes.append(outcome)
                    continue
                whole = outcome.message if messages else _with_the_records_own(outcome.message, entry, index)
                limit = self._limits[whole.topic]
                message = fitting(whole, limit)
                if message is None:
                    detail = f"{_without_stored(whole).size} bytes, and {whole.topic} takes {limit}"
                    outcomes.append(Failure(index=index, stage="publish", reason="result-too-large", detail=detail))
                    continue
                outcomes.append(outcome)
                messages.append(message)
                if outcome.tombstone is not None:
                    messages.append(outcome.tombstone)
            entry.outcomes[index] = tuple(outcomes)
        failures = [outcome for found in entry.outcomes.values() for outcome in found if isinstance(outcome, Failure)]
        if failures:
            messages += self._dead_letters(entry, failures)
        return messages

    def messages_again(self, entry: Entry) -> list[Message] | None:
        """New messages if one exceeds the current limits; else None."""
        fits = all(message.size <= self._limits[message.topic] for message in entry.messages or ())
        return None if fits else self.messages(entry)

    def _rendered(self, entry: Entry, index: int, document: Document) -> Rendered:
        message = self._message(entry, index, document)
        tombstone = _tombstone(message, document) if message is not None and document.tombstone else None
        return Rendered(message, document.kind, document.reason, document.content, tombstone)

    def _message(self, entry: Entry, index: int, document: Document) -> Message | None:
        topic = self._options.skipped_topic if document.kind == "skip" else self._options.output_topic
        if not topic:
            return None
        headers = entry.traces.get(index, entry.trace)
        if document.version is not None:
            headers += ((VERSION_HEADER, b"%d" % document.version),)
        return Message(topic, document.key, document.value, headers + document.stored)

    def _dead_letters(self, entry: Entry, failures: Sequence[Failure]) -> list[Message]:
        topic = self._options.dead_letter_topic
        return dead_letters(
            (entry.record, *entry.repeats),
            failures,
            topic=topic,
            limit=self._limits[topic],
            allowed=entry.may_cause - entry.outcome_bytes,
            worker=self._options.worker_version,
            models={role.use: reference(role.model) for role in self._roles.kept},
        )


def moment(wall_s: float) -> str:
    """Format a time in seconds since 1970 as RFC 3339 text."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _with_the_records_own(message: Message, entry: Entry, index: int) -> Message:
    """Add the headers for the first outcome of a record."""
    tracestate = () if index in entry.traces else entry.tracestate
    own = (*tracestate, *entry.input_key)
    return replace(message, headers=(*own, *message.headers)) if own else message


def _size(outcomes: Sequence[Rendered | Failure]) -> int:
    return sum(outcome.size for outcome in outcomes if isinstance(outcome, Rendered))


def _lighter(outcome: Rendered) -> Rendered:
    return outcome if outcome.message is None else outcome._replace(message=_without_stored(outcome.message))


def _tombstone(retraction: Message, document: Document) -> Message:
    """A tombstone. Its version is one higher: some sinks refuse an equal version."""
    version = b"%d" % ((document.version or 0) + 1)
    return replace(retraction, value=None, headers=((VERSION_HEADER, version),))


def fitting(message: Message, limit: int) -> Message | None:
    """The message, if needed without its stored results; None: it is too large."""
    if message.size > limit:
        message = _without_stored(message)
    return message if message.size <= limit else None


def _without_stored(message: Message) -> Message:
    return replace(message, headers=tuple([each for each in message.headers if each[0] not in STORED_HEADERS]))


def _too_much(index: int) -> Failure:
    detail = "the outcomes of the record's other events reached the size limit for one record"
    return Failure(index=index, stage="parse", reason="too-many-records", detail=detail)


def _options(options: Options) -> writing.Fields:
    own, added = options.own, options.results
    return writing.outcome_options(
        want=own, guide_tags=options.guide_tags, profile=options.profile, results=added or None
    )


def _event_ref(where: Coordinates, event: ImageEvent | None) -> writing.Fields:
    return writing.event_ref(
        id=event.id if event is not None else f"{where.topic}:{where.partition}:{where.offset}:{where.index}",
        dialect=event.dialect if event is not None else None,
        time=event.event_time if event is not None else None,
        topic=where.topic,
        partition=where.partition,
        offset=where.offset,
        index=where.index,
    )


def _source(event: ImageEvent, facts: Facts, version_id: str | None, told: PictureFacts | None) -> writing.Fields:
    read = facts.original and writing.read_rendition(
        bucket=facts.original.read_bucket,
        key=facts.original.read_key,
        width=facts.width,
        height=facts.height,
        orientation=told and told.orientation,
    )
    return writing.source(
        bucket=event.bucket,
        key=event.key,
        version_id=version_id,
        etag=facts.etag,
        sequencer=event.sequencer,
        last_modified=facts.last_modified,
        sha256=facts.sha256,
        read=read,
    )


def _json(fields: writing.Fields) -> bytes:
    """JSON in UTF-8. The copy frees orjson's buffer of at least 16 KiB."""
    return bytes(memoryview(orjson.dumps(fields, default=BaseModel.model_dump)))


def _hit(hit: bool) -> HitOrMiss:
    return "hit" if hit else "miss"


def content_of(
    tags: Sequence[Mapping[str, Any]] | None, caption: Mapping[str, Any] | None, results: Mapping[str, int] = {}
) -> Content:
    """Scores and words of an enriched image; `tags` None: not wanted."""
    return Content(
        None if tags is None else bytes(min(9, int(tag["score"] * 10)) for tag in tags if "source" not in tag),
        None if caption is None else len(caption["text"].split()),
        results,
    )
