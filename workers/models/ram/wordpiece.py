"""BERT's uncased WordPiece, with the two tokens that Tag2Text adds.

The vocabulary travels with the bundle (`vocab.txt`, 30,522 lines, the line number is the id).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece as WordPieceModel
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from workers.errors import Misconfigured
from workers.models.files import text_of

VOCABULARY_SIZE = 30522
PAD, UNKNOWN, CLS, SEP, MASK = 0, 100, 101, 102, 103
DEC, ENC = 30522, 30523
"""Begin of a text, and begin of tags."""

PROMPT = "a picture of "
PROMPT_IDS = (DEC, 1037, 3861, 1997)
GUIDE_LENGTH = 40

SPECIAL = {PAD: "[PAD]", UNKNOWN: "[UNK]", CLS: "[CLS]", SEP: "[SEP]", MASK: "[MASK]"}
_ADDED = {DEC: "[DEC]", ENC: "[ENC]"}
_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class WordPiece:
    """Text to ids and back. Thread-safe."""

    def __init__(self, tokens: Sequence[str]) -> None:
        """Raises Misconfigured: not the vocabulary that these models were trained with."""
        if len(tokens) != VOCABULARY_SIZE or len(set(tokens)) != len(tokens):
            raise Misconfigured(
                f"the vocabulary has {len(set(tokens)):,} different tokens in {len(tokens):,} lines where "
                f"bert-base-uncased has {VOCABULARY_SIZE:,}; give its vocab.txt."
            )
        wrong = [token for index, token in SPECIAL.items() if tokens[index] != token]
        if wrong:
            raise Misconfigured(f"the vocabulary has {', '.join(wrong)} not at their places; give bert-base-uncased's.")
        self._tokens = (*tokens, *_ADDED.values())
        self._tokenizer = Tokenizer(
            WordPieceModel(
                {token: index for index, token in enumerate(tokens)}, unk_token="[UNK]", max_input_chars_per_word=100
            )
        )
        self._tokenizer.normalizer = BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = BertPreTokenizer()
        self._tokenizer.add_special_tokens([*SPECIAL.values(), *_ADDED.values()])

    @classmethod
    def read(cls, path: Path) -> WordPiece:
        """Read a vocab.txt."""
        return cls(text_of(path).removesuffix("\n").split("\n"))

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without added tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids; special tokens are left out, blanks before punctuation closed up."""
        words = " ".join(self._tokens[i] for i in ids if i not in SPECIAL and i not in _ADDED)
        text = words.replace(" ##", "").strip()
        for spaced in _CLEAN_UP:
            text = text.replace(spaced, spaced.strip())
        return text

    def guide(self, text: str) -> tuple[list[int], list[int]]:
        """A tag string as `GUIDE_LENGTH` ids and their mask: begin, tokens (cut if need be), end, padding."""
        body = self.encode(text)[: GUIDE_LENGTH - 2]
        ids = [ENC, *body, SEP]
        padding = GUIDE_LENGTH - len(ids)
        return ids + [PAD] * padding, [1] * len(ids) + [0] * padding

    def caption(self, ids: Sequence[int]) -> str:
        """The text behind the prompt of ids that begin with it."""
        return self.decode(ids)[len(PROMPT) :]
