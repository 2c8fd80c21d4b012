"""The embedding of a sentence, for `Query(about=…)`. This imports torch."""

from __future__ import annotations

import numpy as np

from tagstream_index.query import Embedding
from workers.errors import Misconfigured
from workers.models.dual.text import TextEncoder, open_text

__all__ = ["embedding_of", "open_text"]


def embedding_of(text: TextEncoder, sentence: str) -> Embedding:
    """The embedding of a sentence, in the space of the encoder's images.

    Raises:
        Misconfigured: the sentence is empty, or the tokenizer belongs to another tower.
    """
    if not sentence.strip():
        raise Misconfigured("--about: the sentence is empty")
    return Embedding(text.space, text.encode([sentence])[0].numpy().astype(np.float16))
