"""Roles: the kinds of result, such as tags and captions.

A role defines which other results it needs, its cache key, the run of its model, and its fields in the output. The
stages loop over the roles, so a new role needs no change in a stage. Besides the results of models there are the facts
of the picture, which come with its pixels.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypedDict

from schemas.dead_letter import Failure, Reason, Stage
from schemas.options import WANTS, Options, Want
from schemas.result_kinds import ResultKind
from workers.errors import closest
from workers.pipeline.annotation import Annotation, OptionRules, option_parts
from workers.pipeline.cache_entries import result_key
from workers.pipeline.captioning import Captioning, RemoteCaptioning, Template, TemplateCaptioning
from workers.pipeline.embedding import Embedder, EmbeddingRole
from workers.pipeline.facts import FactsResult
from workers.pipeline.kind_role import RemoteFields
from workers.pipeline.published import StoredOutcome
from workers.pipeline.tagging import Tagging
from workers.pipeline.task import Attempt
from workers.ports import Captioner, CorrectionLog, Model, ModelIdentity, RemoteCaptioner, Tagger
from workers.types import FactsMode, Transform


class Role(Protocol):
    """One kind of result."""

    name: Want
    """The name in `Options.want`, in `Annotation.results`, in metrics, and in the output's `cache`."""

    def needs(self, options: Options) -> frozenset[Want]:
        """The roles whose results this role needs."""

    def render(self, image: Annotation) -> Mapping[str, Any]:
        """The output fields; empty values if the event does not want them."""


class Result(Protocol):
    """A result that the cache keeps."""

    @property
    def name(self) -> str:
        """The name in `Annotation.results` and in metrics."""

    kind: str
    """The name in cache keys."""
    made_by: str
    """A hash of everything that changes the result, besides the image and the options."""
    option_rules: OptionRules
    in_general: bool
    """Whether a result that was computed without options is valid for all options."""

    def needs(self, options: Options) -> frozenset[Want]:
        """The roles whose results this result depends on."""

    def pack(self, value: Any) -> bytes:
        """Encode a result for the cache."""

    def unpack(self, value: bytes | None) -> Any | None:
        """Decode a result from the cache; None if it is invalid."""


class KeptRole(Role, Result, Protocol):
    """A role whose results are kept: in the cache, and for `tagstream retag` in outcomes."""

    name: Want
    use: str
    """The field of the model in the output's `models`; the name of an added kind, which has none there."""

    @property
    def model(self) -> ModelIdentity: ...

    def header(self, image: Annotation) -> tuple[str, bytes] | None:
        """The record header that stores the result, or None."""

    def restore(self, outcome: StoredOutcome, image: Annotation) -> Any:
        """The result from a published outcome, for this image's options and profile.

        Raises:
            NotStored: the outcome does not have it.
            KeyError, TypeError, ValueError: the outcome is invalid.
        """


class ModelRole(KeptRole, Protocol):
    """A role with a model that runs here."""

    stage: Stage
    reason: Reason
    """The reason in a dead letter after a failure of the model."""
    essential: bool
    """Whether an image without this result becomes a dead letter. If not, its output is partial."""

    comes_with: Want | None
    """The role whose run also gives this result for free; None: there is no such role."""

    @property
    def model(self) -> Model: ...

    def run(self, attempts: Sequence[Attempt]) -> Sequence[Any]:
        """Run the model; returns one raw answer for each image, in order.

        Runs on the device thread.

        Raises:
            Broken: the number of answers is wrong.
            Exception: an image or the device is at fault.
        """

    def finish(self, answer: Any) -> Any:
        """Postprocess a raw answer to a result. Thread-safe.

        Raises:
            ValueError: the answer contains NaN.
            Broken: the answer is invalid.
        """

    def self_test(self, attempt: Attempt) -> None:
        """Run the model on its self-test image, with this attempt's options. Raises Exception: the device is broken."""

    def check_self_test(self, answer: Any) -> None:
        """Check the raw answer for the self-test image. Raises ValueError, Broken: the answer is wrong."""


WaitingRole: TypeAlias = RemoteCaptioning | RemoteFields
"""A role with a model that runs elsewhere: its images wait, and the device never sees them."""


@dataclass(eq=False)
class Roles:
    """The roles of one worker.

    Args:
        models: roles with a model here; each comes after the roles that it needs.
        rules: roles without a model, which use the results of others.
        facts: of the picture; None: they are off.
        lacks: why the worker can't give a result, by its name.
        captioning: the role of captions from elsewhere.
        fields: the role of its answers' fields.
    """

    models: Sequence[ModelRole]
    rules: Sequence[Role] = ()
    facts: Result | None = None
    lacks: Mapping[Want, str] = field(default_factory=dict)
    captioning: RemoteCaptioning | None = None
    fields: RemoteFields | None = None

    def __post_init__(self) -> None:
        elsewhere = (self.captioning, self.fields)
        self.waiting: tuple[WaitingRole, ...] = tuple([role for role in elsewhere if role is not None])
        self.kept: tuple[KeptRole, ...] = (*self.models, *self.waiting)
        self.all: tuple[Role, ...] = (*self.kept, *self.rules)
        self.results: tuple[Result, ...] = self.kept if self.facts is None else (*self.kept, self.facts)
        self._computed = frozenset(role.name for role in self.kept)
        self._by_products = tuple(role for role in self.models if role.comes_with is not None)
        self.essential = frozenset(role.name for role in self.models if role.essential)
        """Results without which an image becomes a dead letter."""
        self.own = tuple([role for role in self.models if role.name in WANTS])
        self.added = tuple([role for role in self.models if role.name not in WANTS])
        """The roles of kinds that other packages add."""
        together = tuple(dict.fromkeys(role.model.transform for role in self.own))
        alone = {role.name: (role.model.transform,) for role in (*self.added, *self.waiting)}
        self.decoded_for: Mapping[str, tuple[Transform, ...]] = {
            result.name: alone.get(result.name, together) for result in self.results
        }
        """By result, the transforms that decide at which scale its image is decoded."""

    def warm_up(self) -> None:
        """Warm up each model once. Runs on the device thread."""
        for model in {id(role.model): role.model for role in self.models}.values():
            model.warm_up()

    def wanted(self, options: Options) -> tuple[KeptRole, ...]:
        """The roles with a model that these options need, in order."""
        names: set[Want] = set(options.want)
        for role in reversed(self.all):
            if role.name in names:
                names |= role.needs(options)
        return tuple(role for role in self.kept if role.name in names)

    def refusals(self, image: Annotation) -> list[Failure]:
        """A failure for each wanted result that this worker can't give; one for all added kinds."""
        options = image.event.options
        refused: list[tuple[Want | None, Reason, str]] = [
            (name, "annotate-failed", self.lacks[name]) for name in options.want if name in self.lacks
        ]
        if absent := [name for name in options.results if name not in self._computed]:
            # One for all: a thousand events of a record may name sixteen each.
            near = [meant for name in absent if (meant := closest(name, (*WANTS, *self._computed)))]
            hint = f"did you mean {', '.join(near)}?" if near else "TAGSTREAM_ROLES names the added ones"
            only = absent[0] if len(absent) == 1 else None
            refused.append((only, "role-not-here", f"this worker has no role {', '.join(absent)}; {hint}"))
        index = image.event.index
        return [
            Failure(index=index, stage="annotate", reason=reason, detail=detail, want=name)
            for name, reason, detail in refused
        ]

    def missing(self, image: Annotation) -> tuple[ModelRole, ...]:
        """The roles to run: needed roles without a result, and free ones (`comes_with`)."""
        wanted, results = self._wanted(image), image.results
        if self._by_products:
            computed = {role.name for role in wanted} - image.hits
            wanted = *wanted, *(r for r in self._by_products if r.comes_with in computed and r not in wanted)
        return tuple([role for role in wanted if role.name not in results and role not in self.waiting])

    def awaited(self, image: Annotation) -> tuple[WaitingRole, ...]:
        """The roles to wait for: needed ones without a result whose model runs elsewhere."""
        wanted = self._wanted(image) if self.waiting else ()
        return tuple([role for role in self.waiting if role in wanted and role.name not in image.results])

    def lacking(self, image: Annotation) -> tuple[Result, ...]:
        """The results to look up: of `missing` and `awaited`, and the facts if the image has none."""
        missing, facts = (*self.missing(image), *self.awaited(image)), self.facts
        return missing if facts is None or facts.name in image.results else (*missing, facts)

    def transforms(self, image: Annotation, *, waiting: bool = True) -> tuple[Transform, ...]:
        """The transforms to decode the image for: those of the results that it lacks.

        Args:
            waiting: whether they include those of roles that wait.
        """
        lacking = [result for result in self.lacking(image) if waiting or result not in self.waiting]
        needed = [self.decoded_for[result.name] for result in lacking]
        return tuple(dict.fromkeys(transform for transforms in needed for transform in transforms))

    def wants(self, image: Annotation, role: KeptRole) -> bool:
        """Whether the event needs the result of this role."""
        return role in self._wanted(image)

    def _wanted(self, image: Annotation) -> Sequence[Any]:
        """See `wanted`; computed once for each image."""
        if image.roles is None:
            image.roles = self.wanted(image.event.options)
        return image.roles

    def flight_key(self, image: Annotation) -> Hashable:
        """A key for an image's results: equal keys mean equal results."""
        wanted = self._wanted(image)
        return (image.sha256, *((role.name, option_parts(role.option_rules, image, {})) for role in wanted))

    def cache_keys(self, role: Result, image: Annotation) -> Sequence[str]:
        """The cache keys of a result; a write uses the first key.

        The list is empty while a needed result is missing.
        """
        if not self._computed.isdisjoint(role.needs(image.event.options) - image.results.keys()):
            return ()
        parts = option_parts(role.option_rules, image, image.results) if role.option_rules else ()
        wanted = (parts, ()) if role.in_general and parts else (parts,)
        return [result_key(role.kind, image.sha256, role.made_by, *some) for some in wanted]


class ModelsByUse(TypedDict, total=False):
    tagger: Tagger
    captioner: Captioner


def make_roles(
    models: ModelsByUse,
    template: Template | None = None,
    corrections: CorrectionLog | None = None,
    *,
    keep_scores: bool = True,
    facts: FactsMode = "off",
    added: Sequence[ModelRole] = (),
    remote: RemoteCaptioner | None = None,
    fields: ResultKind | None = None,
) -> Roles:
    """Create the roles for these models.

    Args:
        template: writes captions if there is no captioner; None: no captions then.
        corrections: manual tag corrections, which override the tagger.
        keep_scores: whether output records store scores and embeddings in headers, for `tagstream retag`.
        remote: writes captions elsewhere, in the place of captioner and template.
        fields: the kind of the fields that its answers may have.
    """
    tagger, captioner = models.get("tagger"), models.get("captioner")
    tagging = Tagging(tagger, corrections, keep_scores) if tagger is not None and tagger.labels else None
    made: list[ModelRole] = [tagging] if tagging is not None else []
    rules: list[Role] = []
    lacks: dict[Want, str] = {}
    if tagger is not None and tagging is None:
        lacks["tags"] = f"the tagger {tagger.name} has no labels; `tagstream models labels` gives it some"
    if isinstance(tagger, Embedder):
        made.append(EmbeddingRole(tagger, keep=keep_scores))
    else:
        runs = "no tagger" if tagger is None else f"the tagger {tagger.name}"
        why = f"this worker runs {runs}, which gives no embeddings; compact, RAM, RAM++ and dual encoders do"
        lacks["embedding"] = why
    captioning, with_fields = None, None
    if remote is not None:
        captioning = RemoteCaptioning(remote, tagging)
        if remote.fields is not None and fields is not None:
            with_fields = RemoteFields(fields, captioning)
    elif captioner is not None:
        made.append(Captioning(captioner, tagging))
    elif template is not None:
        rules.append(TemplateCaptioning(template, tagging))
    return Roles([*made, *added], rules, None if facts == "off" else FactsResult(facts), lacks, captioning, with_fields)
