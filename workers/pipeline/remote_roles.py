"""The roles of a captioner elsewhere: the caption, and the user's own fields that come in the same answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from schemas import writing
from schemas.options import Options, Want
from schemas.result_kinds import ResultKind
from workers.pipeline.annotation import NO_OPTIONS, Annotation
from workers.pipeline.captioning import GuidedRole
from workers.pipeline.kind_role import AddedRole
from workers.pipeline.tagging import Tagging
from workers.ports import RemoteCaptioner
from workers.types import Caption, RemoteAnswer, Transform


@dataclass
class ServiceModel:
    """The model that a service is to run."""

    name: str
    digest: str
    transform: Transform
    precision: str = "remote"
    random_weights: bool = False


class RemoteCaptioning(GuidedRole):
    """The role of captions from elsewhere. Tag names guide them if the prompt holds the tags."""

    def __init__(self, captioner: RemoteCaptioner, tagging: Tagging | None) -> None:
        super().__init__(tagging, ", ".join)
        self.captioner = captioner
        self.model = ServiceModel(captioner.name, captioner.digest, captioner.transform)
        self.made_by = captioner.digest
        if not captioner.guided:
            self.option_rules = NO_OPTIONS

    def needs(self, options: Options) -> frozenset[Want]:
        return super().needs(options) if self.captioner.guided else frozenset()

    def names(self, image: Annotation) -> Sequence[str]:
        return super().names(image) if self.captioner.guided else ()

    def taken(self, answer: RemoteAnswer) -> Caption | None:
        """The answer's caption if the cache could give it back: then it can be published."""
        try:
            known = self.unpack(self.pack(answer.caption))
        except TypeError:  # a lone surrogate
            return None
        return None if known is None else answer.caption


class RemoteFields(AddedRole):
    """The role of the user's own fields in an answer."""

    def __init__(self, kind: ResultKind, captioning: RemoteCaptioning) -> None:
        super().__init__(kind, captioning.model, captioning.captioner.fields)
        self.captioner = captioning.captioner
        self.made_by = captioning.made_by
        self.option_rules = captioning.option_rules
        self._captioning = captioning

    def needs(self, options: Options) -> frozenset[Want]:
        return self._captioning.needs(options)

    def names(self, image: Annotation) -> Sequence[str]:
        return self._captioning.names(image)

    def taken(self, answer: RemoteAnswer) -> writing.Fields | None:
        try:
            return self.unpack(orjson.dumps(answer.fields))
        except TypeError:  # a lone surrogate, or a number of more than 64 bits
            return None
