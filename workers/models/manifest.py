"""The manifest of a bundle: the content of model.json, and the digest of everything that changes answers."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PositiveFloat, field_validator, model_validator

from workers.types import Transform

GOLDEN = "golden.safetensors"
PARENTS = "parents.json"
MAX_LABELS = 100_000
MAX_SIDE = 4096
"""Pixels, of the square that a transform makes and of the shorter side before its cut."""
_MAX_NAMES = 1000

Score = Annotated[float, Field(ge=0, le=1)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""The name of a file in the folder itself."""
Language = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,35}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Thresholds = Score | Annotated[tuple[Score, ...], Field(fail_fast=True)]
"""One number for all labels, or one for each, by label id."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileFacts(_Frozen):
    """The size and sha256 that a file of the bundle must have."""

    bytes: int = Field(ge=0)
    sha256: Sha256


class LabelSource(_Frozen):
    """The label file that a bundle's labels come from."""

    file: str
    """Its name."""
    sha256: Sha256
    text: str
    """Name of the text tower that read it."""
    shares: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)] | None, ...], Field(fail_fast=True)] = ()
    """By label id, the expected share of images with the label; null: no share is known."""


class Provenance(_Frozen):
    """Where the weights come from."""

    source: str
    sha256: str | None = None
    """The sha256 of the file that the weights were taken from."""
    licence: str | None = None
    random: bool = False
    """Seeded random weights, for trials and benchmarks: the answers mean nothing."""
    beside: dict[FileName, FileFacts] = {}
    """Files of the folder that no answer depends on and no worker opens: a text tower and its tokenizer, alignment."""
    labels: LabelSource | None = None
    training: dict[str, JsonValue] | None = None
    """The card of a model that was trained here: `tagstream_train.export.Card`."""


class Manifest(_Frozen):
    """The content of model.json. Fields that the format does not define go to the builder of the bundle's `kind`."""

    format: Literal["tagstream-bundle/1"] = "tagstream-bundle/1"
    kind: str
    """Which builder makes a model of it."""
    name: str
    provenance: Provenance
    transform: Transform
    mean: tuple[float, float, float]
    """By channel, of pixels scaled to 0..1."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    labels: int = Field(default=0, ge=0, le=MAX_LABELS)
    languages: Annotated[tuple[Language, ...], Field(fail_fast=True)] = ()
    thresholds: Thresholds = 0.5
    profiles: dict[str, Thresholds] = {}
    """Other thresholds that an event may ask for by name."""
    floor: Score = 0.0
    architecture: dict[str, JsonValue] = {}
    """Sizes: widths, depths, heads, …"""
    options: dict[str, JsonValue] = {}
    """How to run it: decoding of captions, …"""
    files: dict[FileName, FileFacts] = {}
    digest: str = ""
    """sha256 over everything that changes answers (`digest_of`)."""

    @model_validator(mode="before")
    @classmethod
    def _few_names(cls, given: Any) -> Any:
        """Refuse too many names; each takes a kilobyte to report."""
        origin = given.get("provenance") if isinstance(given, dict) else None
        nested = (given, given.get("files"), given.get("profiles"), origin) if isinstance(given, dict) else ()
        for each in (*nested, origin.get("beside") if isinstance(origin, dict) else None):
            if isinstance(each, dict) and len(each) > _MAX_NAMES:
                raise ValueError(f"more than {_MAX_NAMES:,} fields, files or profiles")
        return given

    @field_validator("transform")
    @classmethod
    def _bounded(cls, transform: Transform) -> Transform:
        if not 1 <= transform.size <= MAX_SIDE or not 0 <= transform.resize <= MAX_SIDE:
            raise ValueError(f"its sides are from 1 to {MAX_SIDE} pixels")
        return transform


NOT_IN_DIGEST = {
    "name": "what people call it; it stands beside the digest in every event",
    "provenance": "where it comes from; that its weights are random stands in every event",
    "thresholds": "which scores are shown: they have a digest of their own in every event",
    "profiles": "as thresholds",
    "digest": "is what is computed",
}
"""Fields of the manifest that no score, caption or translation depends on, each with the reason."""
_FILES_NOT_IN_DIGEST = {
    GOLDEN: "is a test of the rest",
    PARENTS: "no score depends on them: outcomes get others by `tagstream retag`, without the image",
}


def digest_of(manifest: Manifest) -> str:
    """A model's identity, hex: sha256 over everything that changes answers, except the precision.

    That is the manifest without `NOT_IN_DIGEST` (kind, transform, mean and std, floor, architecture, options, …), and
    of every file its sha256, except of the golden answers and the labels' parents. Encoded as JSON with sorted names.
    """
    document = manifest.model_dump(mode="json", exclude=set(NOT_IN_DIGEST))
    document["files"] = {
        name: facts.sha256 for name, facts in manifest.files.items() if name not in _FILES_NOT_IN_DIGEST
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
