"""Sizes of a dual encoder, as frozen data; a bundle's `architecture` holds them as JSON (`to_json`, `from_json`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

from pydantic import Field, TypeAdapter, ValidationError

from schemas.text import first_fault
from workers.errors import Misconfigured
from workers.models.bundle import WEIGHTS
from workers.models.manifest import Manifest
from workers.models.ram.config import CLIP_SPACE, PUBLISHED, Few

Kind: TypeAlias = Literal["siglip", "clip"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""Kinds of bundles."""
COMPACT: Final = "efficientnet_lite0"
"""The kind of the compact tagger's bundle."""
COMPACT_DIMENSIONS: Final = 256
"""Of its embeddings, and the fewest labels of a classifier that gives some."""

Width: TypeAlias = Annotated[int, Field(ge=1, le=8192)]
Space: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


@dataclass(frozen=True, slots=True)
class TowerConfig:
    """A stack of `layers` blocks on tokens of `width` channels; their feed-forward layers have `hidden`."""

    width: Width
    hidden: Width
    layers: Few
    heads: Few


@dataclass(frozen=True, slots=True)
class DualConfig:
    """Both towers, and what makes a logit of a cosine.

    Args:
        kind: decides activation, epsilon, masks and pooling (`towers.py`).
        space: names the vector space of both towers. Vectors of two spaces are never compared.
        side: of the square image, pixels; patches that do not fit whole are cut off.
        patch: side of a patch, pixels.
        length: tokens that the text tower reads at most, or always (SigLIP).
        scale: logarithm of the factor of a cosine, as published.
        bias: of a logit; not for CLIP.
    """

    kind: Kind
    space: Space
    side: Annotated[int, Field(ge=8, le=1024)]
    patch: Annotated[int, Field(ge=2, le=64)]
    image: TowerConfig
    text: TowerConfig
    vocabulary: Annotated[int, Field(ge=4, le=1_000_000)]
    length: Annotated[int, Field(ge=3, le=1024)]
    dimensions: Annotated[int, Field(ge=2, le=8192)]
    scale: Annotated[float, Field(ge=-20, le=20)]
    bias: Annotated[float, Field(ge=-1000, le=1000)] = 0.0

    @property
    def patches(self) -> int:
        """Of an image."""
        return (self.side // self.patch) ** 2


def to_json(config: DualConfig) -> dict[str, Any]:
    document = asdict(config)
    del document["kind"]  # the manifest says it
    return document


def from_json(kind: str, document: Mapping[str, Any]) -> DualConfig:
    """Read what `to_json` wrote.

    Raises Misconfigured: another kind, or a size that is missing, no number or out of bounds.
    """
    try:
        config: DualConfig = TypeAdapter(DualConfig).validate_python({"kind": kind, **document})
    except ValidationError as error:
        raise Misconfigured(f"the architecture of this {kind} bundle can't be read: {first_fault(error)}.") from None
    for tower in (config.image, config.text):
        if tower.width % tower.heads:
            raise Misconfigured(f"a tower is {tower.width} wide, which {tower.heads} heads do not divide.")
    if config.patch > config.side:
        raise Misconfigured(f"patches of {config.patch} pixels do not fit into images of {config.side}.")
    return config


def vectors_digest(manifest: Manifest) -> str | None:
    """Names what makes vectors of images: file, sizes and preprocessing, not the labels.

    None: the bundle does not tell the file that its weights come from.
    """
    weights = _compact_weights(manifest) or manifest.provenance.sha256
    if manifest.kind not in (*KINDS, COMPACT) or weights is None:
        return None
    parts = manifest.model_dump(mode="json", include={"kind", "transform", "mean", "std", "architecture"})
    parts["weights"] = weights
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def space_of(manifest: Manifest) -> str | None:
    """The space of a bundle's embeddings; None: it is not known."""
    known, space = PUBLISHED.get(manifest.kind), manifest.architecture.get("space")
    if manifest.kind == COMPACT:
        weights = _compact_weights(manifest)
        return None if weights is None else f"compact-{COMPACT_DIMENSIONS}-{weights[:8]}"
    if known is not None:
        return CLIP_SPACE if known.facts.clip else None
    return space if manifest.kind in KINDS and isinstance(space, str) else None


def _compact_weights(manifest: Manifest) -> str | None:
    """The sha256 of a compact bundle's weights; None: other bundles, or too few labels for embeddings.

    Not that of the published file: a bundle that was trained further has other weights.
    """
    own, file = manifest.options.get("own", manifest.labels), manifest.files.get(WEIGHTS)
    enough = isinstance(own, int) and own >= COMPACT_DIMENSIONS
    return file.sha256 if manifest.kind == COMPACT and file is not None and enough else None
