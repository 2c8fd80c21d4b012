"""The role of a kind of result that another package adds (`schemas.result_kinds`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import BaseModel

from schemas import writing
from schemas.enriched_image import ModelRef
from schemas.options import Options, Want
from schemas.result_kinds import ResultKind
from workers.pipeline import cache_entries as entries
from workers.pipeline.annotation import Annotation, RoleDefaults
from workers.pipeline.answers import one_each, result_in, result_of
from workers.pipeline.captioning import RemoteCaptioning
from workers.pipeline.identity import model_ref
from workers.pipeline.published import NotStored, StoredOutcome
from workers.pipeline.task import Attempt
from workers.ports import ModelIdentity, ResultModel, SelfTested
from workers.types import ImageAbout, RemoteAnswer


class AddedRole(RoleDefaults):
    """The role of one added kind. Its results are fields of `results.NAME`: `model` and `value`.

    Args:
        shape: of the results; None: as the kind says.
    """

    def __init__(self, kind: ResultKind, model: ModelIdentity, shape: type[BaseModel] | None = None) -> None:
        self.name: Want = kind.name
        self.use = kind.name
        self.kind = f"result-{kind.name}"
        self.model = model
        self.made_by = entries.digest(model.digest, repr(model.transform), model.precision)
        self._result = shape or kind.result
        self._words = kind.words
        self._reference = model_ref(model).model_dump()

    def pack(self, value: writing.Fields) -> bytes:
        return orjson.dumps(value["value"])

    def unpack(self, value: bytes | None) -> writing.Fields | None:
        found = None if value is None else result_in(self._result, value)
        return None if found is None else {"model": self._reference, "value": found}

    def restore(self, outcome: StoredOutcome, image: Annotation) -> writing.Fields:
        """The outcome's result and reference, if of this model."""
        found = (outcome.fields.get("results") or {}).get(self.name)
        if found is None or found["model"]["digest"] != self.model.digest:
            raise NotStored("results")
        restored = self.unpack(orjson.dumps(found["value"]))
        if restored is None:
            raise NotStored("results")
        return {**restored, "model": ModelRef.model_validate(found["model"], extra="ignore").model_dump()}

    def render(self, image: Annotation) -> Mapping[str, Any]:
        """Nothing: the renderer collects the results of all kinds in one field."""
        return {}

    def words(self, value: writing.Fields) -> int:
        """Number of words by which searches find a result."""
        return len(self._words(value["value"]).split())


class KindRole(AddedRole):
    """The role of an added kind with a model that runs here."""

    model: ResultModel

    def __init__(self, kind: ResultKind, model: ResultModel) -> None:
        super().__init__(kind, model)

    def run(self, attempts: Sequence[Attempt]) -> Sequence[Any]:
        images = [attempt.pixels(self.model) for attempt in attempts]
        about = [ImageAbout.of(one) if a.known_good else a.about for a, one in zip(attempts, images, strict=True)]
        return one_each(self.model, self.model.forward(images, about), len(attempts))

    def finish(self, answer: Any) -> writing.Fields:
        return {"model": self._reference, "value": result_of(self.model, self._result, answer)}

    def self_test(self, attempt: Attempt) -> None:
        image = self.model.self_test_image()
        self.finish(self.model.forward([image], [ImageAbout.of(image)])[0])

    def check_self_test(self, answer: Any) -> None:
        self.finish(answer)
        if isinstance(self.model, SelfTested):
            self.model.check_self_test(answer)


class RemoteFields(AddedRole):
    """The role of the user's own fields in an answer."""

    def __init__(self, kind: ResultKind, captioning: RemoteCaptioning) -> None:
        super().__init__(kind, captioning.model, captioning.captioner.fields)
        self.made_by = captioning.made_by
        self.option_rules = captioning.option_rules
        self._captioning = captioning

    def needs(self, options: Options) -> frozenset[Want]:
        return self._captioning.needs(options)

    def taken(self, answer: RemoteAnswer) -> writing.Fields | None:
        """The answer's fields, if they can be published."""
        try:
            return self.unpack(orjson.dumps(answer.fields))
        except TypeError:  # a lone surrogate, or a number of more than 64 bits
            return None
