"""Roles: the kinds of result that an image can have, one object each.

A role knows the roles that it needs, its result's cache key, how a batch runs on its model, and its part of the event.
Lookup, equal images, the device's stage and rendering work with any role, and name none.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, TypedDict

from schemas.dead_letter import Failure, Reason, Stage
from schemas.options import Options, Want
from workers.pipeline.annotation import Annotation, OptionRules, option_parts
from workers.pipeline.cache_entries import result_key
from workers.pipeline.captioning import Captioning, Template, TemplateCaptioning
from workers.pipeline.embedding import Embedder, EmbeddingRole, NoEmbedding
from workers.pipeline.tagging import Tagging
from workers.pipeline.task import Attempt
from workers.ports import Captioner, CorrectionLog, Model, Tagger


class Role(Protocol):
    """One kind of result, as an event shows it."""

    name: Want
    """The name in `Options.want`, an annotation's results, the metrics and the event's `cache`."""

    def needs(self, options: Options) -> frozenset[Want]:
        """The roles that it needs results of, under these options."""
        ...

    def render(self, image: Annotation) -> Mapping[str, Any]:
        """Its fields of the EnrichedImage; also called if it is not wanted."""
        ...


class Rule(Role, Protocol):
    """A role without a model: it renders other roles' results."""

    def refusal(self, image: Annotation) -> Failure | None:
        """Why the event lacks a wanted result; None: it lacks nothing."""
        ...


class ModelRole(Role, Protocol):
    """A role with a model, which computes each image's result."""

    model: Model
    use: str
    """The model's key in the event's `models`."""
    stage: Stage
    reason: Reason
    """The reason in the dead letter when the model fails."""
    essential: bool
    """Whether an image without this result is a dead letter; otherwise its event is partial."""

    kind: str
    """The role's name in the cache's keys."""
    made_by: str
    """Identifies everything that the result depends on besides the image and the event's options."""
    option_rules: OptionRules
    in_general: bool
    """Whether a result computed without options can replace one computed with any options."""
    comes_with: Want | None
    """The role whose model also makes this result; both are then cached."""

    def pack(self, value: Any) -> bytes:
        """A result as the cache keeps it."""
        ...

    def header(self, image: Annotation) -> tuple[str, bytes] | None:
        """The record header that stores a result; None: the role has no header."""
        ...

    def unpack(self, value: bytes | None) -> Any | None:
        """The packed result; None if it is invalid."""
        ...

    def run(self, attempts: Sequence[Attempt]) -> Sequence[Any]:
        """An answer for each image, in order. Device thread; the needed results are known.

        Raises:
            Broken: the model did not answer for each image.
            Exception: an image's fault, or the device's.
        """
        ...

    def finish(self, answer: Any) -> Any:
        """The result that an answer holds. Any thread.

        Raises:
            ValueError: the answer has a NaN (a broken device).
            Broken: the model returned an invalid answer.
        """
        ...

    def self_test(self, attempt: Attempt) -> None:
        """Run the self-test image in the same way as this one.

        Raises:
            Exception: the device fails.
        """
        ...

    def check_self_test(self, answer: Any) -> None:
        """Check the answer that `run` gave for the self-test image.

        Raises:
            ValueError, Broken: the answer is wrong or invalid.
        """
        ...


class Roles:
    """The roles of one worker; a role comes after the roles that it needs.

    Args:
        models: roles that a model computes.
        rules: roles rendered from other roles' results alone.
    """

    def __init__(self, models: Sequence[ModelRole], rules: Sequence[Rule] = ()) -> None:
        self.models = tuple(models)
        self.rules = tuple(rules)
        self.all: tuple[Role, ...] = (*models, *rules)
        self._computed = frozenset(role.name for role in models)
        self._by_products = tuple(role for role in models if role.comes_with is not None)

    def warm_up(self) -> None:
        """Warm up each model once, even if it serves two roles. Device thread."""
        for model in {id(role.model): role.model for role in self.models}.values():
            model.warm_up()

    def wanted(self, options: Options) -> tuple[ModelRole, ...]:
        """The models' roles that the options need, in order of work."""
        names: set[Want] = set(options.want)
        for role in reversed(self.all):
            if role.name in names:
                names |= role.needs(options)
        return tuple(role for role in self.models if role.name in names)

    def missing(self, image: Annotation) -> tuple[ModelRole, ...]:
        """The wanted roles without a result yet, and by-products that cost nothing."""
        wanted, results = self._wanted(image), image.results
        if self._by_products:
            computed = {role.name for role in wanted} - image.hits
            wanted = *wanted, *(r for r in self._by_products if r.comes_with in computed and r not in wanted)
        return tuple([role for role in wanted if role.name not in results])

    def wants(self, image: Annotation, role: ModelRole) -> bool:
        """Whether the event needs the role's result; otherwise it is a by-product."""
        return role in self._wanted(image)

    def _wanted(self, image: Annotation) -> Sequence[ModelRole]:
        """The roles that the event wants, computed once for all stages."""
        if image.roles is None:
            image.roles = self.wanted(image.event.options)
        return image.roles

    def flight_key(self, image: Annotation) -> Hashable:
        """A key that is equal exactly for images with equal results."""
        wanted = self._wanted(image)
        return (image.sha256, *((role.name, option_parts(role.option_rules, image, {})) for role in wanted))

    def cache_keys(self, role: ModelRole, image: Annotation) -> Sequence[str]:
        """The cache keys of a result; a new result is written under the first.

        Empty until the results of all needed roles are known.
        """
        if not self._computed.isdisjoint(role.needs(image.event.options) - image.results.keys()):
            return ()
        parts = option_parts(role.option_rules, image, image.results)
        wanted = dict.fromkeys((parts, ()) if role.in_general else (parts,))
        return [result_key(role.kind, image.sha256, role.made_by, *some) for some in wanted]


class ModelsByUse(TypedDict, total=False):
    """The models of one worker, by their use."""

    tagger: Tagger
    captioner: Captioner


def make_roles(
    models: ModelsByUse,
    template: Template | None = None,
    corrections: CorrectionLog | None = None,
    *,
    keep_scores: bool = True,
) -> Roles:
    """The roles that these models serve.

    Args:
        template: makes captions if no captioner runs; None: no captions then.
        corrections: manual corrections, which override the tagger.
        keep_scores: whether records carry scores and embeddings for a later change of settings.
    """
    tagger, captioner = models.get("tagger"), models.get("captioner")
    tagging = Tagging(tagger, corrections, keep_scores) if tagger is not None else None
    made: list[ModelRole] = [tagging] if tagging is not None else []
    rules: list[Rule] = []
    if isinstance(tagger, Embedder):
        made.append(EmbeddingRole(tagger, keep=keep_scores))
    else:
        rules.append(NoEmbedding(tagger))
    if captioner is not None:
        made.append(Captioning(captioner, tagging))
    elif template is not None:
        rules.append(TemplateCaptioning(template, tagging))
    return Roles(made, rules)
