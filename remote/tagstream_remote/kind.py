"""The kind of results `fields`: the user's own fields in a service's answers. It imports no client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, NoReturn

from pydantic import BaseModel, Field, RootModel

from schemas.result_kinds import ResultKind
from tagstream_remote.caption_file import FIELDS_MAX, FieldName, Number, Text
from workers.errors import Misconfigured
from workers.settings import FIELDS_KIND


class CaptionFields(RootModel[Annotated[dict[FieldName, Text | Number], Field(max_length=FIELDS_MAX)]]):
    """Texts and numbers by the names that TAGSTREAM_CAPTION_FILE gave them."""


class FieldsKind(ResultKind):
    """What index and page know of such fields, whatever their names."""

    name: ClassVar[str] = FIELDS_KIND
    result: ClassVar[type[BaseModel]] = CaptionFields
    bundle_kind: ClassVar[str] = ""

    def words(self, result: dict[str, Any]) -> str:
        return "\n".join(value for value in result.values() if isinstance(value, str))

    def rows(self, result: dict[str, Any]) -> Sequence[tuple[str, str]]:
        return [(name, str(value)) for name, value in result.items() if isinstance(value, str | int | float)]

    def build(self, bundle: Any, device: Any, precision: Any) -> NoReturn:
        raise Misconfigured("`fields` come with an address in TAGSTREAM_CAPTIONER: leave them out of TAGSTREAM_ROLES")
