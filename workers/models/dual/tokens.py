"""Cuts sentences into token ids by the library `tokenizers`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from workers.errors import Misconfigured
from workers.models.dual.config import DualConfig

MAX_TOKENIZER_BYTES: Final = 64 * 1024**2
"""Published ones have up to 34 MB, and take ten times as much in memory."""
MAX_CHARACTERS: Final = 8192
"""Of a sentence: the rest is cut off. No tower reads as many."""
SPECIAL: Final = {"siglip": ("<pad>", "<eos>"), "clip": ("<|startoftext|>", "<|endoftext|>")}


class TokenIds:
    """Cuts sentences into the ids of one tower.

    SigLIP: the pieces, the end, padding up to the tower's length. CLIP: a start, the pieces, the end, then zeros that
    nothing reads. Both in lower case, and cut so that the end is always there. No text becomes a special token.

    Args:
        content: a tokenizer.json.
        where: it comes from, for errors.

    Raises:
        Misconfigured: it is no tokenizer, or lacks the special tokens of the kind.
    """

    def __init__(self, content: bytes, config: DualConfig, where: Path) -> None:
        from tokenizers import Tokenizer

        try:
            made: Any = Tokenizer.from_buffer(content)
        except Exception as error:  # noqa: BLE001  # the library raises Exception itself
            raise Misconfigured(f"{where} is no tokenizer.json ({str(error)[:200]}).") from None
        made.no_padding()
        made.no_truncation()
        made.encode_special_tokens = True  # or the text "<pad>" would become padding
        self._tokenizer = made
        self._config = config
        self._where = where
        first, self._end = (self._special(name) for name in SPECIAL[config.kind])
        clip = config.kind == "clip"
        self._start, self._padding = ([first], 0) if clip else ([], first)

    def __call__(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (n, length) int64, and each sentence's end (n,).

        The end is the place where the tower reads the sentence.

        Raises:
            Misconfigured: an id that the tower does not have.
        """
        config, clip = self._config, self._config.kind == "clip"
        room = config.length - 1 - len(self._start)
        found = self._tokenizer.encode_batch([_prepared(each) for each in sentences], add_special_tokens=False)
        ids = torch.full((len(sentences), config.length), self._padding)
        ends = torch.full((len(sentences),), config.length - 1)
        for row, encoding in enumerate(found):
            pieces = [*self._start, *encoding.ids[:room], self._end]
            ids[row, : len(pieces)] = torch.tensor(pieces)
            if clip:
                ends[row] = len(pieces) - 1
        if bool((ids >= config.vocabulary).any()):
            raise Misconfigured(
                f"{self._where} gives ids from {config.vocabulary:,} on, which the text tower does not have: "
                "it is the tokenizer of another model."
            )
        return ids, ends

    def cut(self, sentences: Sequence[str]) -> list[str]:
        """Sentences of which the tower reads the beginning alone."""
        room = self._config.length - 1 - len(self._start)
        found = self._tokenizer.encode_batch([_prepared(each) for each in sentences], add_special_tokens=False)
        return [
            each for each, ids in zip(sentences, found, strict=True) if len(ids) > room or len(each) > MAX_CHARACTERS
        ]

    def _special(self, name: str) -> int:
        found: int | None = self._tokenizer.token_to_id(name)
        if found is None or found >= self._config.vocabulary:
            raise Misconfigured(f"{self._where} has no token {name}: it is not the tokenizer of {self._config.kind}.")
        return found


def _prepared(sentence: str) -> str:
    """Lower case; what can't be encoded (half a surrogate pair) becomes a question mark."""
    return sentence[:MAX_CHARACTERS].lower().encode("utf-8", "replace").decode()
