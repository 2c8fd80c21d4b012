"""Captions and tags as tokens for a text decoder, and vocabularies."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from tagstream_train.data.samples import Ids, Sample
from workers.models.ram.adapters import SEPARATOR
from workers.models.ram.alignment import cleaned
from workers.models.ram.importer import made_up_vocabulary
from workers.models.ram.wordpiece import DEC, PAD, PROMPT, PROMPT_IDS, SEP, UNKNOWN, VOCABULARY_SIZE, WordPiece

MAX_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Drawn:
    """A caption of an image, with the labels parsed from it."""

    caption: str
    tags: Ids


def draw(sample: Sample, seed: int) -> Drawn | None:
    """Draw a caption by the seed, or None without captions.

    If the captions are not parsed, the caption gets all tags of the image.
    """
    if not sample.captions:
        return None
    index = Random(f"caption {seed}").randrange(len(sample.captions))
    parsed = sample.caption_tags[index] if sample.caption_tags else sample.tags
    return Drawn(sample.captions[index], tuple(sorted(set(parsed))))


def caption_tokens(wordpiece: WordPiece, captions: Sequence[str], *, prompt: bool = True) -> tuple[Tensor, Tensor]:
    """Ids and mask, (captions, n) each, padded to the longest.

    Args:
        prompt: begin each with "a picture of", as in the worker. The official training programs don't, although they
            have no loss on the first three words.
    """
    rows = []
    for caption in captions:
        body = wordpiece.encode(PROMPT + cleaned(caption) if prompt else cleaned(caption))
        rows.append([DEC, *body[: MAX_TOKENS - 2], SEP])
    longest = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def guide_tokens(wordpiece: WordPiece, labels: Sequence[str], tags: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Token ids and mask of the tags' names, in label order."""
    rows = [wordpiece.guide(SEPARATOR.join(labels[i] for i in sorted(ids))) for ids in tags]
    return torch.tensor([ids for ids, _ in rows]), torch.tensor([mask for _, mask in rows])


GIVEN = len(PROMPT_IDS)
"""Initial tokens of a caption without a loss."""


_WORD = "word"
"""Prefix of the made-up words of `made_up_vocabulary`, which are replaced."""


def vocabulary_of(texts: Iterable[str]) -> bytes:
    """A vocab.txt of the texts' words, the most frequent first.

    Special tokens, the prompt's words and single letters have their usual ids.
    """
    base = list(made_up_vocabulary())
    pieces = WordPiece(base)
    counted = Counter(word for text in texts for word in _words(text))
    taken = set(base)
    free = (place for place, token in enumerate(base) if token.startswith(_WORD) and token[len(_WORD) :].isdigit())
    ranked = sorted(counted, key=lambda word: (-counted[word], word))
    new = (word for word in ranked if word not in taken and UNKNOWN not in pieces.encode(word))
    for place, word in zip(free, new, strict=False):
        base[place] = word
    assert len(base) == VOCABULARY_SIZE
    return "".join(f"{token}\n" for token in base).encode()


def _words(text: str) -> list[str]:
    """Split words like BERT's tokenizer, without accents."""
    plain = unicodedata.normalize("NFD", cleaned(text))
    return re.findall(r"[^\W_]+", "".join(c for c in plain if unicodedata.category(c) != "Mn"))
