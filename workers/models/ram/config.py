"""Sizes of the models, as frozen data; a bundle's `architecture` holds them as JSON (`to_json`, `from_json`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from schemas.text import first_fault
from workers.errors import Misconfigured

Kind: TypeAlias = str
"""A bundle's kind: a key of `PUBLISHED`."""

Few: TypeAlias = Annotated[int, Field(ge=1, le=99)]
Width: TypeAlias = Annotated[int, Field(ge=1, le=16_384)]
Many: TypeAlias = Annotated[int, Field(ge=1, le=100_000)]
"""Bounds of a file's claims, far above the published models: a model is laid out before its weights are looked at.
They are checked by `from_json`."""
MOST_STAGES = 8
"""Of the image encoder; published ones have four."""


CLIP_SPACE = "clip-vit-b-16"
"""Names the space of the embeddings of every model whose facts say `clip`."""


@dataclass(frozen=True, slots=True)
class SwinConfig:
    """The image encoder: four stages on grids of `image_size / 4`, each half as wide as the one before.

    Args:
        image_size: side of the square image, pixels.
        width: channels of the first stage; stage i has `width * 2**i`.
        window: side of an attention window, tokens.
    """

    image_size: Annotated[int, Field(ge=32, le=1024)]
    width: Width
    depths: tuple[Few, ...]
    heads: tuple[Few, ...]
    window: Annotated[int, Field(ge=1, le=64)]

    @property
    def width_out(self) -> int:
        return self.width << (len(self.depths) - 1)


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """The tag head: `layers` of cross-attention and feed-forward over `width` channels."""

    width: Width = 768
    heads: Few = 4
    layers: Few = 2
    hidden: Width = 3072


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The tag encoder and the text decoder, which have the same sizes."""

    width: Width = 768
    heads: Few = 12
    layers: Few = 12
    hidden: Width = 3072
    vocabulary: Many = 30524
    positions: Many = 512


@dataclass(frozen=True, slots=True)
class KindFacts:
    """Facts of every model of a kind.

    Args:
        clip: labels and images lie in CLIP's space: it takes labels it was not trained with, and gives embeddings.
    """

    kind: Kind
    name: str
    clip: bool = False
    captions: bool = False


@dataclass(frozen=True, slots=True)
class RamConfig:
    """RAM. `text` is the captioning branch that its published file also holds; tagging needs none."""

    facts: ClassVar = KindFacts("ram", "RAM", clip=True)
    encoder: SwinConfig
    labels: Many
    head: HeadConfig = HeadConfig()
    embedding: Width = 512
    text: TextConfig | None = None


@dataclass(frozen=True, slots=True)
class RamPlusConfig:
    """RAM++: `descriptions` text embeddings for each label."""

    facts: ClassVar = KindFacts("ram_plus", "RAM++", clip=True)
    encoder: SwinConfig
    labels: Many
    head: HeadConfig = HeadConfig()
    embedding: Width = 512
    descriptions: Annotated[int, Field(ge=1, le=1000)] = 51


@dataclass(frozen=True, slots=True)
class Tag2TextConfig:
    """Tag2Text: tags, and a caption guided by them."""

    facts: ClassVar = KindFacts("tag2text", "Tag2Text", captions=True)
    encoder: SwinConfig
    labels: Many
    head: HeadConfig = HeadConfig()
    text: TextConfig = TextConfig()


AnyConfig: TypeAlias = RamConfig | RamPlusConfig | Tag2TextConfig

SWIN_BASE = SwinConfig(image_size=384, width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12)
SWIN_LARGE = SwinConfig(image_size=384, width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12)
SWIN_BASE_224 = SwinConfig(image_size=224, width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=7)
SWIN_LARGE_224 = SwinConfig(image_size=224, width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=7)

PUBLISHED: Mapping[Kind, AnyConfig] = {
    config.facts.kind: config
    for config in (
        RamConfig(SWIN_LARGE, labels=4585),
        RamPlusConfig(SWIN_LARGE, labels=4585),
        Tag2TextConfig(SWIN_BASE, labels=3429),
    )
}
"""Every kind, with the sizes of its published checkpoint."""


def to_json(config: AnyConfig) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(asdict(config)))  # tuples become lists
    return document


def from_json(kind: str, document: Mapping[str, Any]) -> AnyConfig:
    """Read what `to_json` wrote. Raises Misconfigured: another kind, or a size that is missing or is no number."""
    if kind not in PUBLISHED:
        raise Misconfigured(f"{kind!r} is no bundle of RAM, RAM++ or Tag2Text; those are {', '.join(PUBLISHED)}.")
    try:
        config: AnyConfig = TypeAdapter[Any](type(PUBLISHED[kind])).validate_python(dict(document))
    except ValidationError as error:
        raise Misconfigured(f"the architecture of this {kind} bundle can't be read: {first_fault(error)}.") from None
    if fault := _fault(config):
        raise Misconfigured(f"the architecture of this {kind} bundle is invalid: {fault}.")
    return config


def _fault(config: AnyConfig) -> str:
    """The sizes that contradict each other, for people; may be empty."""
    encoder = config.encoder
    if len(encoder.depths) != len(encoder.heads) or not 1 <= len(encoder.depths) <= MOST_STAGES:
        return f"the encoder has 1 to {MOST_STAGES} stages, each with a depth and heads"
    parts = [(f"stage {i + 1}", encoder.width << i, heads) for i, heads in enumerate(encoder.heads)]
    parts.append(("the tag head", config.head.width, config.head.heads))
    text = getattr(config, "text", None)
    if text is not None:
        parts.append(("the text branch", text.width, text.heads))
    for name, width, heads in parts:
        if width % heads:
            return f"{name} is {width} wide, which {heads} heads do not divide"
    return ""
