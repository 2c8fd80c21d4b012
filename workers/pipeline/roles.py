"""Roles: the kinds of result that an image can have. Each is one object, and the pipeline goes over them.

A role says what it needs first, under which key its result is cached, how a batch runs on its model, and which part of
the event shows it. Lookup, single flight, the device's step and rendering know roles, and none of them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypedDict

from schemas.dead_letter import Failure, Reason, Stage
from schemas.enriched_image import CaptionText, Tag
from schemas.options import Options, Want
from workers.pipeline import cache_entries as entries
from workers.pipeline.answers import caption_of, one_each, scores_of
from workers.pipeline.embedding import Embedder, Embedding, NoEmbedding
from workers.pipeline.task import Task
from workers.ports import Captioner, Model, SubsetTagger, Tagger
from workers.types import Caption, LabelScores, Pixels, Subset

Template: TypeAlias = Callable[[Sequence[str]], Caption]
"""A caption by rule from tag names."""


class Role(Protocol):
    """One kind of result, as an event shows it."""

    name: Want
    """How `Options.want`, a task's results, the metrics and the event's `cache` call it."""

    def needs(self, options: Options) -> frozenset[Want]:
        """The roles whose results it is made from, under these options."""
        ...

    def render(self, task: Task) -> Mapping[str, Any]:
        """Its fields of the EnrichedImage. Called whether it was asked for or not."""
        ...


class Rule(Role, Protocol):
    """A role that no model computes: what it shows follows from others' results."""

    def refusal(self, task: Task) -> Failure | None:
        """Why the event lacks what it asked for; None: it has it, or did not ask."""
        ...


class ModelRole(Role, Protocol):
    """A role whose result a model computes for each image, and the cache keeps."""

    model: Model
    use: str
    """What the model is used as: its place in the event's `models`."""
    stage: Stage
    reason: Reason
    """What a failure says that its model causes."""
    essential: bool
    """Without its result the image is a dead letter; without another's the event leaves as partial."""

    def keys(self, task: Task) -> Sequence[str]:
        """Where the cache may have the result, the key to write it under first; none while a needed one is missing."""
        ...

    def pack(self, value: Any) -> bytes:
        """A result as the cache keeps it."""
        ...

    def unpack(self, value: bytes | None) -> Any | None:
        """The result that was packed; None for anything that could not be published."""
        ...

    def run(self, tasks: Sequence[Task]) -> Sequence[Any]:
        """An answer for each task, in order. Device thread; the needed results are in the tasks.

        Raises:
            Broken: the model did not answer for each.
            Exception: an image's fault, or the device's.
        """
        ...

    def finish(self, answer: Any) -> Any:
        """The result that an answer holds. Any thread.

        Raises:
            ValueError: not a number in it (a broken device).
            Broken: it is no answer of such a model.
        """
        ...

    def self_test(self, task: Task) -> None:
        """Run an image that is known to be good as the task is run.

        Raises:
            Exception: the device fails.
        """
        ...


class Roles:
    """The roles of one worker, each after those that it needs.

    Args:
        models: computed by models.
        rules: rendered from others' results alone.
    """

    def __init__(self, models: Sequence[ModelRole], rules: Sequence[Rule] = ()) -> None:
        self.models = tuple(models)
        self.rules = tuple(rules)
        self.all: tuple[Role, ...] = (*models, *rules)

    def warm_up(self) -> None:
        """Warm up each model once, also one that serves two roles. Device thread."""
        for model in {id(role.model): role.model for role in self.models}.values():
            model.warm_up()

    def wanted(self, options: Options) -> tuple[ModelRole, ...]:
        """The models' roles that these options ask for, and those that are needed for it, in order of work."""
        names: set[Want] = set(options.want)
        for role in reversed(self.all):
            if role.name in names:
                names |= role.needs(options)
        return tuple(role for role in self.models if role.name in names)

    def missing(self, task: Task) -> tuple[ModelRole, ...]:
        """Those wanted of a task that have neither a result nor an answer yet."""
        return tuple(
            role
            for role in self.wanted(task.event.options)
            if role.name not in task.results and role.name not in task.answers
        )

    def flight_key(self, task: Task) -> Hashable:
        """Equal for two tasks exactly when one's results are the other's."""
        assert task.facts is not None
        wanted = frozenset(role.name for role in self.wanted(task.event.options))
        return (task.facts.sha256, wanted, *(OPTION_RULES[name](task, wanted) for name in Options.model_fields))


def _guide_tags_rule(task: Task, wanted: frozenset[Want]) -> Hashable:
    """They steer a model's caption, and nothing else that is computed."""
    return task.event.options.guide_tags if "caption" in wanted else None


def _profile_rule(task: Task, wanted: frozenset[Want]) -> Hashable:
    """It chooses the labels that are scored, and the tags that guide a caption where no others do."""
    guides = "caption" in wanted and not task.event.options.guide_tags
    return (task.profile.subset if "tags" in wanted else None, task.profile.digest if guides else None)


OPTION_RULES: Final[Mapping[str, Callable[[Task, frozenset[Want]], Hashable]]] = {
    "want": lambda _, wanted: wanted,
    "guide_tags": _guide_tags_rule,
    "profile": _profile_rule,
}
"""By field of `Options`: what of its value changes a computed result, given the roles that are wanted. An event's id
takes every field as it is (`enriched_id`); images in flight are equal when these are."""


class Models(TypedDict, total=False):
    """The models of one worker, by what each is used as."""

    tagger: Tagger
    captioner: Captioner


def make_roles(models: Models, template: Template | None = None) -> Roles:
    """The roles that these models give.

    Args:
        template: makes captions where no captioner runs; None for no such captions.
    """
    tagger, captioner = models.get("tagger"), models.get("captioner")
    tagging = Tagging(tagger) if tagger is not None else None
    made: list[ModelRole] = [tagging] if tagging is not None else []
    rules: list[Rule] = []
    if isinstance(tagger, Embedder):
        made.append(Embedding(tagger))
    else:
        rules.append(NoEmbedding(tagger))
    if captioner is not None:
        made.append(Captioning(captioner, tagging))
    elif template is not None:
        rules.append(TemplateCaptioning(template, tagging))
    return Roles(made, rules)


class Tagging:
    """Scores of labels; the event shows those above the thresholds of its profile."""

    name: Want = "tags"
    use = "tagger"
    stage: Stage = "annotate"
    reason: Reason = "annotate-failed"
    essential = True

    def __init__(self, tagger: Tagger) -> None:
        self.model: Model = tagger
        self._tagger = tagger
        self._key = entries.tagger_key(tagger)

    def needs(self, options: Options) -> frozenset[Want]:
        return frozenset()

    def keys(self, task: Task) -> Sequence[str]:
        """Where the scores of its labels are, or those of all, of which its profile shows no others."""
        assert task.facts is not None
        wanted = dict.fromkeys((task.profile.subset, None))
        return [entries.scores_key(task.facts.sha256, self._key, subset) for subset in wanted]

    def pack(self, value: LabelScores) -> bytes:
        return entries.pack_scores(value)

    def unpack(self, value: bytes | None) -> LabelScores | None:
        return entries.unpack_scores(value, len(self._tagger.labels))

    def run(self, tasks: Sequence[Task]) -> Sequence[Any]:
        images = [_pixels(task, self._tagger) for task in tasks]
        answers = self._score(images, [task.profile.subset for task in tasks])
        return one_each(self._tagger, answers, len(tasks))

    def finish(self, answer: Any) -> LabelScores:
        return scores_of(self._tagger, answer)

    def self_test(self, task: Task) -> None:
        """The good image is scored for the same labels: what fails may be what these take."""
        self.finish(self._score([self._tagger.self_test_image()], [task.profile.subset])[0])

    def render(self, task: Task) -> Mapping[str, Any]:
        return {"tags": self.tags(task) if self.name in task.event.options.want else ()}

    def tags(self, task: Task) -> tuple[Tag, ...]:
        """Those above the task's thresholds, best first."""
        scores: LabelScores | None = task.results.get(self.name)
        if scores is None:
            return ()
        return tuple(
            Tag(
                name=self._tagger.labels[label_id],
                score=score,
                label_id=label_id,
                translations={code: names[label_id] for code, names in self._tagger.translations.items()} or None,
            )
            for label_id, score in task.profile.select(scores)
        )

    def names_by_label(self, task: Task) -> list[str]:
        """Names of the tags above the task's thresholds, in label order, as captioners were trained on."""
        scores: LabelScores | None = task.results.get(self.name)
        if scores is None:
            return []
        return [self._tagger.labels[label_id] for label_id, _ in sorted(task.profile.select(scores))]

    def _score(self, images: Sequence[Pixels], subsets: Sequence[Subset | None]) -> Sequence[Any]:
        """Each image for its labels. Where all want all, the way is the one that every tagger has."""
        if any(subset is not None for subset in subsets) and isinstance(self._tagger, SubsetTagger):
            return self._tagger.forward_subsets(images, subsets)
        return self._tagger.forward(images)


class Captioning:
    """A captioner's sentence, guided by the tags that the event gives, or else by the image's own.

    Args:
        tagging: gives an image's own tags; None: it has none.
    """

    name: Want = "caption"
    use = "captioner"
    stage: Stage = "caption"
    reason: Reason = "caption-failed"
    essential = False

    def __init__(self, captioner: Captioner, tagging: Tagging | None) -> None:
        self.model: Model = captioner
        self._captioner = captioner
        self._tagging = tagging
        self._key = entries.captioner_key(captioner)

    def needs(self, options: Options) -> frozenset[Want]:
        return _needs_of_caption(options)

    def keys(self, task: Task) -> Sequence[str]:
        assert task.facts is not None
        own_tags = self._tagging is not None and not task.event.options.guide_tags
        if own_tags and "tags" not in task.results:
            return ()
        return (entries.caption_key(task.facts.sha256, self._key, self._captioner.guide(self._names(task))),)

    def pack(self, value: Caption) -> bytes:
        return entries.pack_caption(value)

    def unpack(self, value: bytes | None) -> Caption | None:
        return entries.unpack_caption(value)

    def run(self, tasks: Sequence[Task]) -> Sequence[Caption]:
        """Captions, complete: what can't be read as text is found out here, where an image can be blamed for it."""
        guides = [self._captioner.guide(self._names(task)) for task in tasks]
        answers = self._captioner.forward([_pixels(task, self._captioner) for task in tasks], guides)
        return [caption_of(self._captioner, answer) for answer in one_each(self._captioner, answers, len(tasks))]

    def finish(self, answer: Caption) -> Caption:
        return answer

    def self_test(self, task: Task) -> None:
        caption_of(self._captioner, self._captioner.forward([self._captioner.self_test_image()], [""])[0])

    def render(self, task: Task) -> Mapping[str, Any]:
        caption: Caption | None = task.results.get(self.name)
        wanted = caption is not None and self.name in task.event.options.want
        return {"caption": _caption_text(caption, self._names(task)) if wanted and caption is not None else None}

    def _names(self, task: Task) -> Sequence[str]:
        """What guides the caption, in the order in which it does."""
        own = self._tagging.names_by_label(task) if self._tagging is not None else ()
        return task.event.options.guide_tags or own


class TemplateCaptioning:
    """A sentence made by rule from the tags, best first, where no captioner runs."""

    name: Want = "caption"

    def __init__(self, template: Template, tagging: Tagging | None) -> None:
        self._template = template
        self._tagging = tagging

    def needs(self, options: Options) -> frozenset[Want]:
        return _needs_of_caption(options)

    def refusal(self, task: Task) -> Failure | None:
        return None

    def render(self, task: Task) -> Mapping[str, Any]:
        if self.name not in task.event.options.want:
            return {"caption": None}
        own = [tag.name for tag in self._tagging.tags(task)] if self._tagging is not None else ()
        names = task.event.options.guide_tags or own
        return {"caption": _caption_text(self._template(tuple(names)), names)}


def _needs_of_caption(options: Options) -> frozenset[Want]:
    return frozenset() if options.guide_tags else frozenset(("tags",))


def _caption_text(caption: Caption, names: Sequence[str]) -> CaptionText:
    return CaptionText(text=caption.text, score=caption.score, method=caption.method, guided_by=tuple(names))


def _pixels(task: Task, model: Model) -> Pixels:
    assert task.image is not None
    return task.image.pixels[model.transform]
