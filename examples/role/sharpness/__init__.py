"""How sharp an image is, as a word and a number."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from schemas.result_kinds import ResultKind


class Sharpness(BaseModel):
    """The result: `text` is found by `sharpness:blurred`."""

    text: Literal["sharp", "soft", "blurred"]
    score: float = Field(ge=0)


class SharpnessKind(ResultKind):
    """The light part, which imports no model."""

    name = "sharpness"
    result = Sharpness
    bundle_kind = "sharpness"

    def rows(self, result: dict[str, Any]) -> Sequence[tuple[str, str]]:
        return [("sharpness", f"{result['text']} ({result['score']:.1f})")]

    def build(self, bundle: Any, device: Any, precision: Any) -> Any:
        from sharpness.model import SharpnessModel

        return SharpnessModel(bundle)
