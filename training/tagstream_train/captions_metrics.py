"""BLEU and CIDEr-D of captions against references, as COCO's evaluation computes them.

Words are split by rules that follow those of COCO's tokenizer: lower case, `'s` and `n't` words of their own,
punctuation dropped. Both measures equal pycocoevalcap's on the same words (training/tests/unit has its numbers).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

Words: TypeAlias = Sequence[str]
_Grams: TypeAlias = Counter[tuple[str, ...]]

ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0

_CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))(?!\w)")
_WORD = re.compile(r"n't|'(?:s|re|ve|ll|d|m)(?!\w)|[^\W_]+(?:[-'.,/&_][^\W_]+)*|[$%&#@+=]")


def words(caption: str) -> list[str]:
    """A caption's words in lower case, without punctuation."""
    return _WORD.findall(_CONTRACTION.sub(r" \1", caption.lower().replace("’", "'")))


def bleu(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> tuple[float, ...]:
    """BLEU-1 to BLEU-4 of a whole set, 0..1.

    Args:
        references: of each caption one or more. The length that counts is that of the one nearest in length.
    """
    hits, given = [0] * len(ORDERS), [0] * len(ORDERS)
    length = wanted = 0
    for caption, others in zip(captions, references, strict=True):
        length += len(caption)
        wanted += min((abs(len(other) - len(caption)), len(other)) for other in others)[1]
        for place, order in enumerate(ORDERS):
            grams = _grams(caption, order)
            most: _Grams = Counter()
            for other in others:
                most |= _grams(other, order)
            hits[place] += (grams & most).total()
            given[place] += max(0, len(caption) - order + 1)
    ratio = (length + 1e-15) / (wanted + 1e-9)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    products = [math.prod((hits[k] + 1e-15) / (given[k] + 1e-9) for k in range(n)) for n in ORDERS]
    return tuple(brevity * product ** (1 / order) for product, order in zip(products, ORDERS, strict=True))


def cider(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr-D of each caption, 0..10.

    The set's is their mean; the papers' tables show 100 times that.

    How much a word tells is counted on the references of this set: a set of one image has none that tells anything.
    """
    images: _Grams = Counter()
    for others in references:
        images.update({gram for other in others for order in ORDERS for gram in _grams(other, order)})
    rare = math.log(max(len(references), 1))

    def vectors(text: Words) -> list[dict[tuple[str, ...], float]]:
        return [
            {gram: count * (rare - math.log(max(1, images[gram]))) for gram, count in _grams(text, order).items()}
            for order in ORDERS
        ]

    scores = []
    for caption, others in zip(captions, references, strict=True):
        mine = vectors(caption)
        alike = [_alike(mine, vectors(other), len(caption) - len(other)) for other in others]
        scores.append(10 * sum(alike) / len(alike))
    return scores


def _alike(mine: list[dict[tuple[str, ...], float]], other: list[dict[tuple[str, ...], float]], longer: int) -> float:
    """Clipped cosine of two captions, averaged over orders."""
    total = 0.0
    for a, b in zip(mine, other, strict=True):
        norms = math.sqrt(sum(x * x for x in a.values())) * math.sqrt(sum(x * x for x in b.values()))
        product = sum(min(value, b[gram]) * b[gram] for gram, value in a.items() if gram in b)
        total += product / norms if norms else product
    return total / len(ORDERS) * math.exp(-(longer**2) / (2 * _SIGMA**2))


def _grams(text: Words, order: int) -> _Grams:
    return Counter(tuple(text[start : start + order]) for start in range(len(text) - order + 1))
