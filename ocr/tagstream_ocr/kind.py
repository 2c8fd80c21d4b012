"""The kind of results `ocr`, the text in pictures: all that index and page load. It imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from schemas.result_kinds import ResultKind

BUNDLE_KIND = "pp-ocr"
MAX_CHARACTERS = 20_000
"""Of one image's text."""
MAX_LINES = 200

Corner: TypeAlias = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
"""x and y in pixels of the stored file."""


class WrittenLine(BaseModel):
    """One line of text, with its place."""

    model_config = ConfigDict(frozen=True)

    text: str = Field(min_length=1, max_length=MAX_CHARACTERS)
    score: float = Field(ge=0, le=1)
    """Mean probability of its characters."""
    corners: tuple[Corner, Corner, Corner, Corner]
    """Where its text begins at the top, then clockwise as it is read."""


class WrittenText(BaseModel):
    """The text in one image: its lines in reading order, a line feed between two, without control characters."""

    model_config = ConfigDict(frozen=True)

    text: str = Field(max_length=MAX_CHARACTERS)
    lines: tuple[WrittenLine, ...] = Field(max_length=MAX_LINES)
    truncated: bool = False
    """Whether the image has more text than this."""


class OcrKind(ResultKind):
    """What index, page and worker know of the text in pictures."""

    name: ClassVar[str] = "ocr"
    result: ClassVar[type[BaseModel]] = WrittenText
    bundle_kind: ClassVar[str] = BUNDLE_KIND
    template: ClassVar[str] = (
        "{% for line in result.lines %}"
        '<polygon points="{% for x, y in line.corners %}{{ x }},{{ y }} {% endfor %}"/>{% endfor %}'
    )

    def rows(self, result: dict[str, Any]) -> Sequence[tuple[str, str]]:
        words = self.words(result)
        return (("text", words),) if words else ()

    def build(self, bundle: Any, device: Any, precision: Any) -> Any:
        from tagstream_ocr.model import OcrModel  # imports torch

        return OcrModel(bundle, device, precision)
