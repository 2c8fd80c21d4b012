"""The roles of captions: with a captioner here, with one elsewhere, with a template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from schemas import writing
from schemas.dead_letter import Reason, Stage
from schemas.options import Options, Want
from workers.pipeline import cache_entries as entries
from workers.pipeline.annotation import NO_OPTIONS, Annotation, RoleDefaults, changes_nothing
from workers.pipeline.answers import caption_of, one_each
from workers.pipeline.published import NotStored, StoredOutcome
from workers.pipeline.tagging import Tagging
from workers.pipeline.task import Attempt
from workers.ports import Captioner, Model, RemoteCaptioner, SelfTested
from workers.types import Caption, RemoteAnswer, Transform

Template: TypeAlias = Callable[[Sequence[str]], Caption | None]
"""Makes a caption from tag names by a rule; None: no name is usable."""


class GuidedRole(RoleDefaults):
    """A role of captions. Tag names guide them: those of the event, or the image's tags.

    Args:
        tagging: the role of the tags; None: there are no tags.
        guide: makes the guide of tag names; None: nothing guides the captions.
    """

    name: Want = "caption"
    use = "captioner"
    kind = "caption"
    stage: Stage = "caption"
    reason: Reason = "caption-failed"

    def __init__(self, tagging: Tagging | None, guide: Callable[[Sequence[str]], str] | None) -> None:
        self._tagging = tagging
        self._guide = guide
        chosen = {"guide_tags": self._guide_as_known, "profile": self._chooses_the_guide}
        self.option_rules = NO_OPTIONS if guide is None else {"want": changes_nothing, **chosen}

    def needs(self, options: Options) -> frozenset[Want]:
        return frozenset() if self._guide is None else _needs_of_caption(options)

    def pack(self, value: Caption) -> bytes:
        return entries.pack_caption(value)

    def unpack(self, value: bytes | None) -> Caption | None:
        return entries.unpack_caption(value)

    def restore(self, outcome: StoredOutcome, image: Annotation) -> Caption:
        """The caption of the event, if its guide is still the same."""
        shown = outcome.fields["caption"]
        if shown is None:
            raise NotStored("captioner")
        if [*shown["guided_by"]] != [*self.names(image)]:
            raise NotStored("guide")
        return Caption(shown["text"], shown["score"], shown["method"], shown.get("model"))

    def render(self, image: Annotation) -> Mapping[str, Any]:
        caption: Caption | None = image.results.get(self.name)
        if caption is None or self.name not in image.event.options.want:
            return {"caption": None}
        paid = caption if self.name not in image.hits else replace(caption, usage=None)
        return {"caption": _caption_text(paid, self.names(image))}

    def names(self, image: Annotation) -> Sequence[str]:
        """The tags that guide the image's caption."""
        if self._guide is None:
            return ()
        own = self._tagging.names(image, by_label=True) if self._tagging is not None else ()
        return image.event.options.guide_tags or own

    def _knows_guide(self, image: Annotation, results: Mapping[str, Any]) -> bool:
        return bool(image.event.options.guide_tags) or self._tagging is None or self._tagging.name in results

    def _guide_as_known(self, image: Annotation, results: Mapping[str, Any]) -> str | None:
        """The option rule for a guide that is known: its hash."""
        if self._guide is None or not self._knows_guide(image, results):
            return None
        return entries.digest(self._guide(self.names(image)))

    def _chooses_the_guide(self, image: Annotation, results: Mapping[str, Any]) -> str | None:
        """The option rule for an unknown guide: a hash of the thresholds and corrections that choose it."""
        if self._knows_guide(image, results) or self._tagging is None:
            return None
        word = self._tagging.word(image)
        return image.profile.digest if word is None else entries.digest(f"{image.profile.digest} {word[:2]}")


class Captioning(GuidedRole):
    def __init__(self, captioner: Captioner, tagging: Tagging | None) -> None:
        super().__init__(tagging, captioner.guide)
        self.model: Model = captioner
        self._captioner = captioner
        self.made_by = entries.captioner_key(captioner)

    def run(self, attempts: Sequence[Attempt]) -> Sequence[Caption]:
        """Caption each image; an invalid caption fails here, with its image."""
        # The captioner's self-test image has no guide.
        names = [() if attempt.known_good else self.names(attempt.annotation) for attempt in attempts]
        images = [attempt.pixels(self._captioner) for attempt in attempts]
        answers = self._captioner.forward(images, [self._captioner.guide(some) for some in names])
        return [caption_of(self._captioner, answer) for answer in one_each(self._captioner, answers, len(attempts))]

    def finish(self, answer: Caption) -> Caption:
        return answer

    def self_test(self, attempt: Attempt) -> None:
        caption_of(self._captioner, self._captioner.forward([self._captioner.self_test_image()], [""])[0])

    def check_self_test(self, answer: Caption) -> None:
        if isinstance(self._captioner, SelfTested):
            self._captioner.check_self_test(answer)


@dataclass
class ServiceModel:
    """The model that a service is to run."""

    name: str
    digest: str
    transform: Transform
    precision: str = "remote"
    random_weights: bool = False


class RemoteCaptioning(GuidedRole):
    """The role of captions from elsewhere, for which images wait. Tags guide them if the prompt holds them."""

    def __init__(self, captioner: RemoteCaptioner, tagging: Tagging | None) -> None:
        super().__init__(tagging, ", ".join if captioner.guided else None)
        self.captioner = captioner
        self.model = ServiceModel(captioner.name, captioner.digest, captioner.transform)
        self.made_by = captioner.digest

    def taken(self, answer: RemoteAnswer) -> Caption | None:
        """The answer's caption, if the cache could give it back: then it can be published."""
        try:
            known = self.unpack(self.pack(answer.caption))
        except TypeError:  # a lone surrogate
            return None
        return None if known is None else answer.caption


class TemplateCaptioning:
    """The role of captions without a captioner: a template writes them from tags."""

    name: Want = "caption"

    def __init__(self, template: Template, tagging: Tagging | None) -> None:
        self._template = template
        self._tagging = tagging

    def needs(self, options: Options) -> frozenset[Want]:
        return _needs_of_caption(options)

    def render(self, image: Annotation) -> Mapping[str, Any]:
        if self.name not in image.event.options.want:
            return {"caption": None}
        own = self._tagging.names(image) if self._tagging is not None else ()
        names = image.event.options.guide_tags or own
        caption = self._template(tuple(names))
        return {"caption": None if caption is None else _caption_text(caption, names)}


def _needs_of_caption(options: Options) -> frozenset[Want]:
    return frozenset() if options.guide_tags else frozenset(("tags",))


def _caption_text(caption: Caption, names: Sequence[str]) -> writing.Fields:
    usage = None if caption.usage is None else caption.usage._asdict()
    return writing.caption_text(
        text=caption.text, score=caption.score, method=caption.method, guided_by=names, model=caption.model, usage=usage
    )
