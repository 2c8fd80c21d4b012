"""Models of requests and answers below /api, and their OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from schemas.correction import TagNames
from schemas.enriched_image import EnrichedImage, Sha256
from tagstream_index.page.access import PROBLEM
from tagstream_index.page.asked import SUBJECT_CHARS
from tagstream_index.page.completing import Name
from tagstream_index.page.pictures import Size
from tagstream_index.page.typed import MOST_CHARS


def _exactly(text: object) -> object:
    """A number or boolean in an address, as JSON writes it."""
    if not isinstance(text, str):
        return text
    number = text.isascii() and text.isdecimal() and len(text) < 10 and (text == "0" or text[0] != "0")
    return int(text) if number else {"true": True, "false": False}.get(text, text)


Whole: TypeAlias = Annotated[int, BeforeValidator(_exactly)]
Switch: TypeAlias = Annotated[bool, BeforeValidator(_exactly)]


class Parameters(BaseModel):
    """Fields of a request; others are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SearchParameters(Parameters):
    q: str = Field(
        "", max_length=MOST_CHARS, description="Words and filters, as people type them, such as `NAME:word`."
    )
    sort: Literal["new", "best"] = Field("new", description="By day, the newest first; by fit.")
    by: Literal["both", "words", "meaning"] = Field("both", description="How words rank.")
    cursor: str = Field("", max_length=2_000, description="`next` or `previous` of an answer to the same search.")
    limit: Whole = Field(60, ge=1, le=100)
    counts: Switch = Field(False, description="Count the newest 5,000 hits too.")


class PictureParameters(Parameters):
    subject: str = Field(max_length=SUBJECT_CHARS, pattern="^[^\0]+$", description="bucket/key, nothing escaped.")


class ThumbnailParameters(PictureParameters):
    size: Size = Field("thumb", description="At most 480, 1,600 or 4,096 pixels wide and high.")


class TagsParameters(Parameters):
    prefix: str = Field("", max_length=200, description="Of a name or of a word in it; empty: the most frequent.")
    limit: Whole = Field(20, ge=1, le=100)


class CorrectionWish(PictureParameters):
    """A person's word on the tags of a picture."""

    sha256: Sha256 = Field(description="The content that the person saw.")
    added: TagNames = Field((), strict=False)
    removed: TagNames = Field((), strict=False)


class TagScore(BaseModel):
    name: str
    score: float


class FoundImage(BaseModel):
    """A picture as `tagstream search --json` shows it, with its status; unknown fields are absent.

    A copy is `equal`, or its hash differs in `hash_distance` of 64 bits.
    """

    subject: str
    bucket: str
    key: str
    version_id: str | None = None
    sha256: str
    last_modified: str
    taken_at: str | None = None
    format: str
    width: int
    height: int
    bytes: int
    tags: list[TagScore]
    caption: str | None = None
    rank: float | None = None
    score: float | None = None
    distance: float | None = None
    status: str | None = None
    corrected: bool | None = None
    equal: Literal[True] | None = None
    hash_distance: int | None = None
    line: str | None = Field(None, description="The line of a result that fits the words best.")


class HitCounts(BaseModel):
    """Numbers of the newest hits. `more`: there are older hits too."""

    total: int
    more: bool
    tags: dict[str, int]
    buckets: dict[str, int]
    states: dict[str, int]
    months: dict[str, int]
    parents: dict[str, list[str]] = Field(description="The wider names of these tags, nearest first.")


class SearchAnswer(BaseModel):
    images: list[FoundImage]
    next: str | None
    previous: str | None
    said: str = Field(description="Why the order is another than the wanted one; else empty.")
    counts: HitCounts | None = None
    instead: list[str] = Field([], description="Where nothing is found: texts that find something.")


class PictureAnswer(BaseModel):
    image: FoundImage
    thresholds: dict[str, float] = Field(description="Of its tags, where the page has the model's bundle.")
    pending: list[str] = Field(description="Tags whose correction is on its way.")
    failed: dict[str, str] = Field(description="Tags whose correction did not arrive, and why; told once.")
    outcomes: list[EnrichedImage] = Field(description="The last that changed something, the newest first.")
    copies: list[FoundImage] = Field(description="At most 60: equal ones, then the nearest.")
    similar: list[FoundImage]


class TagsAnswer(BaseModel):
    tags: list[Name]


class CorrectionAnswer(BaseModel):
    subject: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    title: str
    status: int
    detail: str


class Operation(NamedTuple):
    """An address below /api; without a model it answers with a JPEG."""

    name: str
    summary: str
    asked: type[Parameters]
    answer: type[BaseModel] | None
    method: str = "get"
    status: int = 200


OPERATIONS: Final = (
    Operation("search", "Pictures that a search finds", SearchParameters, SearchAnswer),
    Operation("picture", "One picture with its outcomes, copies and similar ones", PictureParameters, PictureAnswer),
    Operation("tags", "Names of tags that begin so", TagsParameters, TagsAnswer),
    Operation("thumbnail", "One picture as a JPEG", ThumbnailParameters, None),
    Operation("corrections", "Add and remove tags", CorrectionWish, CorrectionAnswer, "post", 202),
)


def openapi(version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of all operations."""
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [(Problem, "serialization"), (CorrectionWish, "validation")]
    modes += [(each.answer, "serialization") for each in OPERATIONS if each.answer is not None]
    _, whole = models_json_schema(modes, ref_template="#/components/schemas/{model}")
    return {
        "openapi": "3.1.0",
        "info": {"title": "tagstream index", "version": version},
        "paths": {f"/api/{each.name}": {each.method: _described(each)} for each in OPERATIONS},
        "components": {"schemas": whole["$defs"], "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
    }


def _described(operation: Operation) -> dict[str, Any]:
    answer = {"image/jpeg": {}} if operation.answer is None else _of("application/json", operation.answer)
    said: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    if operation.method == "post":
        said["requestBody"] = {"required": True, "content": _of("application/json", operation.asked)}
    else:
        schema = operation.asked.model_json_schema()
        said["parameters"] = [
            {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": field}
            for name, field in schema["properties"].items()
        ]
    failure = {"description": "An error", "content": _of(PROBLEM, Problem)}
    good = {"description": "The answer", "content": answer}
    return said | {"responses": {str(operation.status): good, "default": failure}}


def _of(media_type: str, model: type[BaseModel]) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
