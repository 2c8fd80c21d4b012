"""The tag head: every label is a query that reads the image and never sees another label.

So any subset of labels can be scored, at a proportional price, and labels can be taken in chunks to bound memory.

Two rewritings make it cheaper and leave the function as it is (to float rounding):

- *Folding.* A label's query meets the image only as a product with the image's keys, and the attended values only
  pass through the output projection. With few image tokens and many labels it is cheaper to multiply the projections
  into the tokens, once an image, than into the labels. `_pays` counts.
- *Constant queries.* Where label queries don't depend on the image, their first projection is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.models.ram.config import HeadConfig
from workers.models.ram.layers import CrossLayer, KeyValue, join_heads, layers_of, split_heads

ROWS_AT_ONCE = 8192
"""Labels times images in one pass through the head; 0.1 GB of activations in fp32 at the published size."""


@dataclass(frozen=True, slots=True)
class Folded:
    """One layer's memory with projections multiplied in.

    Args:
        score: (images, width, heads × tokens), maps a layer's input to scaled attention scores; None if the
            queries are known beforehand.
        score_bias: (images, 1, heads × tokens).
        value: (images, heads × tokens, width), the values behind the output projection.
    """

    score: Tensor | None
    score_bias: Tensor | None
    value: Tensor


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """What one layer needs of a batch of images."""

    plain: KeyValue
    folded: Folded | None


class TagHead(nn.Module):
    """Layers of cross-attention from label queries to image tokens."""

    def __init__(self, config: HeadConfig, memory: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.layers = layers_of(CrossLayer(config.width, memory, config.hidden) for _ in range(config.layers))

    def first_queries(self, labels: Tensor) -> Tensor:
        """(labels, width) constant label queries → what `forward` takes as `first`: (heads, labels, head width)."""
        return split_heads(self.layers[0].query(labels)[None], self.heads)[0]

    def remember(self, tokens: Tensor, labels: int, constant: bool) -> list[LayerMemory]:
        """Keys, values and folded projections of these images.

        Args:
            tokens: (images, tokens, memory width).
            labels: how many will be scored, to decide whether folding pays.
            constant: whether `first` will be given.
        """
        found = []
        for index, layer in enumerate(self.layers):
            plain = layer.remember(tokens, self.heads)
            fold = self._pays(layer, labels, tokens.shape[1])
            found.append(LayerMemory(plain, _fold(layer, plain, constant and index == 0) if fold else None))
        return found

    def forward(self, labels: Tensor, memory: list[LayerMemory], first: Tensor | None = None) -> Tensor:
        """Label queries → hidden states (images, labels, width).

        Queries are (labels, width) or (images, labels, width).
        """
        images = memory[0].plain.key.shape[0]
        x = labels.expand(images, -1, -1)
        for index, (layer, part) in enumerate(zip(self.layers, memory, strict=True)):
            known = first if index == 0 else None
            if part.folded is not None:
                x = self._folded(layer, x, part.folded, part.plain.key, known)
            elif known is not None:
                x = _attend(layer, x, known.expand(images, -1, -1, -1), part.plain)
            else:
                x = layer(x, part.plain)
        return x

    def _folded(self, layer: CrossLayer, x: Tensor, folded: Folded, key: Tensor, known: Tensor | None) -> Tensor:
        if known is not None:
            scale = 1 / math.sqrt(known.shape[-1])
            scores = torch.matmul(known * scale, key.transpose(-1, -2)).transpose(1, 2)  # images, labels, heads, n
        else:
            assert folded.score is not None
            assert folded.score_bias is not None
            scores = torch.baddbmm(folded.score_bias, x, folded.score).view(*x.shape[:2], self.heads, -1)
        weights = scores.softmax(dim=-1).flatten(2)
        mixed = torch.bmm(weights, folded.value)
        return layer.feed_forward(layer.attention_norm(x + mixed.add_(layer.out.bias)))

    def _pays(self, layer: CrossLayer, labels: int, tokens: int) -> bool:
        """Whether folding saves more multiplications for labels than it costs for tokens.

        Never in training, and never where a projection has been replaced (by an int8 one, say).
        """
        if layer.training or type(layer.query) is not nn.Linear or type(layer.out) is not nn.Linear:
            return False
        width = layer.out.in_features
        spared = labels * (width + tokens - self.heads * tokens)
        return spared > tokens * width


def label_chunks(labels: int, images: int, rows: int) -> Iterator[slice]:
    """Cut the labels into pieces of about `rows` rows over all images."""
    pieces = max(1, math.ceil(labels * images / rows))
    size = math.ceil(labels / pieces)
    for start in range(0, labels, size):
        yield slice(start, min(labels, start + size))


def _fold(layer: CrossLayer, memory: KeyValue, constant: bool) -> Folded:
    images, heads, tokens, head_width = memory.key.shape
    width = heads * head_width
    out = layer.out.weight.view(width, heads, head_width).permute(1, 2, 0)  # heads, head width, width
    value = torch.matmul(memory.value, out).reshape(images, heads * tokens, width)
    if constant:
        return Folded(None, None, value)
    key = memory.key / math.sqrt(head_width)
    query = layer.query.weight.view(heads, head_width, width)
    score = torch.matmul(key, query).reshape(images, heads * tokens, width).transpose(1, 2)
    bias = torch.matmul(key, layer.query.bias.view(heads, head_width, 1)).reshape(images, 1, heads * tokens)
    return Folded(score, bias, value)


def _attend(layer: CrossLayer, x: Tensor, query: Tensor, memory: KeyValue) -> Tensor:
    mixed = F.scaled_dot_product_attention(query, memory.key, memory.value)
    return layer.feed_forward(layer.attention_norm(x + layer.out(join_heads(mixed))))
