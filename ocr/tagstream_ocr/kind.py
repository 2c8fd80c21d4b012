"""The kind of results `ocr`, the text in pictures: all that index and page load. It imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel

from schemas.result_kinds import ResultKind
from tagstream_ocr import WrittenText

BUNDLE_KIND = "pp-ocr"


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
