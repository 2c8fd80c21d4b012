"""The published dual encoders, and all models that can be pulled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from workers.models import pull
from workers.models.dual.importer import Origin
from workers.models.pull import VOCABULARY, HubFile
from workers.models.ram.config import CLIP_SPACE


@dataclass(frozen=True, slots=True)
class PublishedDual:
    """A published dual encoder.

    Args:
        licence: of code and weights, as their pages say; None: the weights' page names none.
        named: the space of its vectors; empty: as the model.
    """

    weights: HubFile
    tokenizer: HubFile
    image_size: int
    licence: str | None
    named: str = ""

    def origin(self, name: str) -> Origin:
        source = f"{self.weights.repo} at {self.weights.revision[:12]}, {self.weights.name}"
        return Origin(name, self.named or name, source, self.licence)


_SIGLIP_LICENCE: Final = (
    "code Apache-2.0; weights: other material of google-research/big_vision, CC-BY there, Apache-2.0 by the hub's cards"
)


def _tokenizer(repo: str, revision: str, size: int, *sha256: str) -> HubFile:
    return HubFile(repo, "tokenizer.json", size, sha256, revision=revision)


_SIGLIP_TOKENIZER: Final = _tokenizer(
    "google/siglip2-base-patch16-224",
    "75de2d55ec2d0b4efc50b3e9ad70dba96a7b2fa2",
    34_363_039,
    "cb9140fae3ac5122c972d37adf83e1248471a38147ad76f8215c8872c6fd8322",
)
"""One for all of them."""
_CLIP_TOKENIZER: Final = _tokenizer(
    "openai/clip-vit-base-patch32", "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", 2_224_041
)


def _siglip(side: int, name: str, revision: str, size: int, *sha256: str) -> PublishedDual:
    weights = HubFile(f"google/siglip2-{name}", "model.safetensors", size, sha256, revision=revision)
    return PublishedDual(weights, _SIGLIP_TOKENIZER, side, _SIGLIP_LICENCE)


def _clip(space: str, name: str, revision: str, size: int, *sha256: str) -> PublishedDual:
    """OpenAI's repositories hold pickles; timm has the same parameters as safetensors."""
    repo = f"timm/vit_{name}_clip_224.openai"
    weights = HubFile(repo, "open_clip_model.safetensors", size, sha256, revision=revision)
    return PublishedDual(weights, _CLIP_TOKENIZER, 224, None, space)


_224 = "612923381c76ec5a9bed335d1c48827e3f2e506ac31b044b63b2031fadee6a0b"
_B32 = "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31"
_B16 = "4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f"
PUBLISHED: Final[Mapping[str, PublishedDual]] = {
    "siglip2-b16-224": _siglip(
        224, "base-patch16-224", "75de2d55ec2d0b4efc50b3e9ad70dba96a7b2fa2", 1_500_800_904, _224
    ),
    "siglip2-b16-384": _siglip(384, "base-patch16-384", "f775b65a79762255128c981547af89addcfe0f88", 1_501_968_264),
    "siglip2-so400m14-384": _siglip(
        384, "so400m-patch14-384", "e8e487298228002f3d8a82e0cd5c8ea9c567f57f", 4_544_000_000
    ),
    "clip-b32": _clip("clip-vit-b-32", "base_patch32", "a6f597a30f7b82c51704746581f9a4e41421e878", 605_143_284, _B32),
    "clip-b16": _clip(CLIP_SPACE, "base_patch16", "977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d", 598_500_000, _B16),
    "clip-l14": _clip("clip-vit-l-14", "large_patch14", "18d0535469bb561bf468d76c1d73aa35156c922b", 1_710_500_000),
}
"""By the words of `tagstream models pull`; without a sha256, that which the hub states for the revision counts."""


_OWN: Final = "your own tags, embeddings, sentences"


class Known(NamedTuple):
    """One model.

    Args:
        word: for `tagstream models pull`; the built-in one is not pulled.
        licence: of the weights; None: unknown.
        bytes: to download, about.
        images_per_s: of one core of a Xeon with AMX, in bf16 and small batches, the model alone.
    """

    word: str
    licence: str | None
    bytes: int
    languages: str
    answers: str
    images_per_s: float


_RATES: Final = {
    "compact": 125,
    "ram": 1.6,
    "ram-plus": 1.5,
    "tag2text": 2.8,
    "siglip2-b16-224": 13,
    "siglip2-b16-384": 4.1,
    "siglip2-so400m14-384": 0.84,
    "clip-b32": 32,
    "clip-b16": 12,
    "clip-l14": 1.9,
}


def known() -> list[Known]:
    """All of them, the built-in one first."""
    made = [Known("compact", "Apache-2.0", 18_000_000, "en", "tags (ImageNet), embeddings", _RATES["compact"])]
    for kind, each in pull.PUBLISHED.items():
        word, lists = kind.replace("_", "-"), (each.tags, each.thresholds, each.chinese)
        size = each.checkpoint.size + sum(file.size for file in lists if file is not None)
        captions = kind == "tag2text"
        answers = "tags, captions" if captions else "tags, embeddings"
        languages = "en" if each.chinese is None else "en, zh"
        size += VOCABULARY.size if captions else 0
        made.append(Known(word, each.licence, size, languages, answers, _RATES[word]))
    for word, dual in PUBLISHED.items():
        size = dual.weights.size + dual.tokenizer.size
        languages = "many" if word.startswith("siglip2") else "en"
        made.append(Known(word, dual.licence, size, languages, _OWN, _RATES[word]))
    return made
