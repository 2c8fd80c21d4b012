"""Sizes of the models, as frozen data; a bundle's `architecture` holds them as JSON (`to_json`, `from_json`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError

from workers.errors import Misconfigured

Kind: TypeAlias = Literal["ram", "ram_plus", "tag2text"]


@dataclass(frozen=True, slots=True)
class SwinConfig:
    """The image encoder: four stages on grids of `image_size / 4`, each half as wide as the one before.

    Args:
        image_size: side of the square picture, pixels.
        width: channels of the first stage; stage i has `width * 2**i`.
        depths: blocks of each stage.
        heads: attention heads of each stage.
        window: side of an attention window, tokens.
    """

    image_size: int
    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int

    @property
    def width_out(self) -> int:
        return self.width << (len(self.depths) - 1)


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """The tag head: `layers` of cross-attention and feed-forward over `width` channels."""

    width: int = 768
    heads: int = 4
    layers: int = 2
    hidden: int = 3072


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The tag encoder and the text decoder, which have the same sizes."""

    width: int = 768
    heads: int = 12
    layers: int = 12
    hidden: int = 3072
    vocabulary: int = 30524
    positions: int = 512


@dataclass(frozen=True, slots=True)
class RamConfig:
    """RAM. `text` is the captioning branch that its published file also holds; tagging needs none."""

    encoder: SwinConfig
    labels: int
    head: HeadConfig = HeadConfig()
    embedding: int = 512
    text: TextConfig | None = None


@dataclass(frozen=True, slots=True)
class RamPlusConfig:
    """RAM++: `descriptions` text embeddings for each label."""

    encoder: SwinConfig
    labels: int
    head: HeadConfig = HeadConfig()
    embedding: int = 512
    descriptions: int = 51


@dataclass(frozen=True, slots=True)
class Tag2TextConfig:
    """Tag2Text: tags, and a caption guided by them."""

    encoder: SwinConfig
    labels: int
    head: HeadConfig = HeadConfig()
    text: TextConfig = TextConfig()


AnyConfig: TypeAlias = RamConfig | RamPlusConfig | Tag2TextConfig

SWIN_BASE = SwinConfig(image_size=384, width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12)
SWIN_LARGE = SwinConfig(image_size=384, width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12)
SWIN_BASE_224 = SwinConfig(image_size=224, width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=7)
SWIN_LARGE_224 = SwinConfig(image_size=224, width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=7)

PUBLISHED: Mapping[Kind, AnyConfig] = {
    "ram": RamConfig(SWIN_LARGE, labels=4585),
    "ram_plus": RamPlusConfig(SWIN_LARGE, labels=4585),
    "tag2text": Tag2TextConfig(SWIN_BASE, labels=3429),
}

_ADAPTERS: Mapping[str, TypeAdapter[Any]] = {
    "ram": TypeAdapter(RamConfig),
    "ram_plus": TypeAdapter(RamPlusConfig),
    "tag2text": TypeAdapter(Tag2TextConfig),
}


def kind_of(config: AnyConfig) -> Kind:
    """The bundle kind that a configuration belongs to."""
    kinds: dict[type[Any], Kind] = {RamConfig: "ram", RamPlusConfig: "ram_plus", Tag2TextConfig: "tag2text"}
    return kinds[type(config)]


def to_json(config: AnyConfig) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(asdict(config)))  # tuples become lists
    return document


def from_json(kind: str, document: Mapping[str, Any]) -> AnyConfig:
    """Read what `to_json` wrote.

    Raises:
        Misconfigured: another kind, or a size that is missing or is no number.
    """
    adapter = _ADAPTERS.get(kind)
    if adapter is None:
        raise Misconfigured(f"{kind!r} is no bundle of RAM, RAM++ or Tag2Text; those are {', '.join(_ADAPTERS)}.")
    try:
        config: AnyConfig = adapter.validate_python(dict(document))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Misconfigured(f"the architecture of this {kind} bundle can't be read: {where}: {first['msg']}.") from None
    return config
