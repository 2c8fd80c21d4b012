"""A WordPiece vocabulary of a set's own captions."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from tagstream_train.captions import cleaned
from workers.models.ram.random_bundle import made_up_vocabulary
from workers.models.ram.wordpiece import UNKNOWN, VOCABULARY_SIZE, WordPiece

_WORD = "word"
"""How the made-up words of `made_up_vocabulary` begin, which are replaced."""


def vocabulary_of(texts: Iterable[str]) -> bytes:
    """A vocab.txt of the texts' words, the most frequent first.

    Its special tokens, the prompt's words, and letters to spell what it does not know stand where they always do.
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
