"""TAGSTREAM_CAPTION_FILE: what a service is asked about each image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from schemas.text import first_fault
from tagstream_remote.answers import clean
from workers.errors import LargerThanReserved, Misconfigured
from workers.files import read_regular_file
from workers.settings import Settings, reaches_no_further

MOST_BYTES: Final = 64 * 1024  # of the file
FIELDS_MAX: Final = 20
STRING_MAX: Final = 1000  # characters of a field's text
TAGS_MAX: Final = 50  # tags that a prompt holds: as many as an event's `guide_tags`
_TAGS = "{tags}"
_quoted = partial(json.dumps, ensure_ascii=False)
_FORM = 1  # counts changes of what a prompt is made into

Text: TypeAlias = Annotated[str, Field(max_length=STRING_MAX), AfterValidator(clean)]
WholeNumber: TypeAlias = Annotated[int, Field(ge=-(2**53), le=2**53)]  # every reader of JSON keeps it
Number: TypeAlias = WholeNumber | Annotated[float, Field(allow_inf_nan=False)]
FieldName: TypeAlias = Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_-]{0,63}$")]


class CaptionField(BaseModel, extra="forbid", frozen=True):
    """A field of the user's own in each answer; `values` are all that an "enum" may be."""

    type: Literal["string", "number", "enum"]
    values: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(max_length=100)] = ()

    @model_validator(mode="after")
    def _values_of_an_enum(self) -> Self:
        if (self.type == "enum") != bool(self.values) or len(set(self.values)) < len(self.values):
            raise ValueError('an "enum" has different `values`, and other types have none')
        return self


class CaptionFile(BaseModel, extra="forbid", frozen=True):
    """The prompt, whose `{tags}` are replaced, picture and form of an answer."""

    prompt: str = Field(
        default="Describe this image in one sentence, for people who search for it.", min_length=1, max_length=8000
    )
    side: int = Field(default=768, ge=64, le=2048)  # pixels of the JPEG's longer side
    requests: int = Field(default=4, ge=1, le=64)  # at once, of each worker process
    language: str = Field(default="", pattern=r"^(\w[\w-]{0,31})?$")
    fields: Mapping[FieldName, CaptionField] = Field(default_factory=dict, max_length=FIELDS_MAX)
    tls: bool = True  # False: the service may be on another machine and have no TLS

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if self.prompt.count(_TAGS) > 1:
            raise ValueError(f"`prompt` may have {_TAGS} once")
        if "caption" in self.fields:
            raise ValueError("each answer has a `caption` already: give the field another name")
        return self

    @classmethod
    def read(cls, path: Path | None) -> Self:
        """Read the file; None gives the defaults. Raises Misconfigured: it can't be read, or is not as it must be."""
        if path is None:
            return cls()
        name = f"TAGSTREAM_CAPTION_FILE={path}"
        try:
            return cls.model_validate_json(read_regular_file(path, MOST_BYTES))
        except OSError as error:
            raise Misconfigured(f"{name} can't be read: {error.strerror}") from None
        except LargerThanReserved:
            raise Misconfigured(f"{name} has more than {MOST_BYTES:,} bytes") from None
        except ValidationError as error:
            raise Misconfigured(f"{name} is not as it must be: {first_fault(error)}") from None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As `read`. Raises Misconfigured too where the file does not allow an address without TLS."""
        file, address = cls.read(settings.caption_file), settings.captioner_address or ""
        if file.tls and address.lower().startswith("http:") and not reaches_no_further(address):
            raise Misconfigured(
                f"TAGSTREAM_CAPTIONER={address}: images and the key would be sent without TLS. Use https://, or allow "
                'it by "tls": false in TAGSTREAM_CAPTION_FILE if the network is yours'
            )
        return file

    @property
    def guided(self) -> bool:
        """Whether the prompt holds the tags."""
        return _TAGS in self.prompt

    def text(self, tags: Sequence[str]) -> str:
        """The prompt for an image with these tags, and the answer's form."""
        asked = self.prompt.replace(_TAGS, ", ".join(tags[:TAGS_MAX]))
        language = f"\nAnswer in this language: {self.language}." if self.language else ""
        form = {name: " | ".join(map(_quoted, field.values)) or field.type for name, field in self.fields.items()}
        told = ", ".join(f"{_quoted(name)}: {words}" for name, words in {"caption": "string", **form}.items())
        return f"{asked}{language}\nAnswer with one JSON object of this form: {{{told}}}"

    def schema(self) -> dict[str, Any]:  # type: ignore[override]  # pydantic's own is `model_json_schema` today
        """The JSON schema of an answer: `caption` and the fields, all required, and no others."""
        properties: dict[str, Any] = {"caption": {"type": "string"}}
        for name, field in self.fields.items():
            properties[name] = {"type": "string", "enum": [*field.values]} if field.values else {"type": field.type}
        return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}

    def model(self) -> type[BaseModel]:
        """The fields without the caption: strict, with bounded texts and finite numbers."""
        shapes: dict[str, Any] = {}
        for number, (name, field) in enumerate(self.fields.items()):
            shape: Any = Literal[field.values] if field.values else Text if field.type == "string" else Number
            shapes[f"field_{number}"] = (shape, Field(alias=name))  # a user may call a field `copy` or `model_config`
        how = ConfigDict(strict=True, extra="forbid", frozen=True, serialize_by_alias=True)
        return create_model("AnsweredFields", __config__=how, **shapes)

    def digest(self, model_asked: str) -> str:
        """sha256 in hex over model, prompt, schema, side and language."""
        asked = [_FORM, model_asked, self.prompt, self.schema(), self.side, self.language]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
