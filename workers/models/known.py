"""The models that can be pulled, and the built-in one."""

from __future__ import annotations

from typing import Final, NamedTuple

from workers.models.dual.published import PUBLISHED as DUAL
from workers.models.pull import PUBLISHED, VOCABULARY

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
    for kind, each in PUBLISHED.items():
        word, lists = kind.replace("_", "-"), (each.tags, each.thresholds, each.chinese)
        size = each.checkpoint.size + sum(file.size for file in lists if file is not None)
        captions = kind == "tag2text"
        answers = "tags, captions" if captions else "tags, embeddings"
        languages = "en" if each.chinese is None else "en, zh"
        size += VOCABULARY.size if captions else 0
        made.append(Known(word, each.licence, size, languages, answers, _RATES[word]))
    for word, dual in DUAL.items():
        size = dual.weights.size + dual.tokenizer.size
        languages = "many" if word.startswith("siglip2") else "en"
        made.append(Known(word, dual.licence, size, languages, _OWN, _RATES[word]))
    return made
