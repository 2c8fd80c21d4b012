"""The tag head, and the layers shared with the text networks.

The layers are post-norm, as in BERT. In the head every label is a query that reads the image and never sees another
label. So any subset of labels can be scored, at a proportional price, and labels can be taken in chunks to bound
memory.

Two rewritings make it cheaper and leave the function as it is (to float rounding):

- *Folding.* A label's query meets the image only as a product with the image's keys, and the attended values only
  pass through the output projection. With few image tokens and many labels it is cheaper to multiply the projections
  into the tokens, once an image, than into the labels. `_pays` counts.
- *Constant queries.* Where label queries don't depend on the image, their first projection is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.models.cpu_layers import gelu_of, sum_of
from workers.models.ram.config import HeadConfig

EPS = 1e-12

Layer = TypeVar("Layer", bound=nn.Module)


class KeyValue(NamedTuple):
    """What queries attend to: (images, heads, tokens, head width) each."""

    key: Tensor
    value: Tensor


def layers_of(modules: Iterable[Layer]) -> Sequence[Layer]:
    """A ModuleList that keeps its elements' type."""
    return cast("Sequence[Layer]", nn.ModuleList(modules))


def exact(numbers: Tensor) -> Tensor:
    """The numbers in fp32 at least; any shape."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(rows, tokens, width) → (rows, heads, tokens, width / heads)."""
    rows, tokens, width = x.shape
    return x.view(rows, tokens, heads, width // heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(rows, heads, tokens, head width) → (rows, tokens, width)."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Attention among the tokens of a text. Queries, keys and values come from one projection, in this order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_dropout = 0.0
        """The dropout of attention weights, in training alone."""
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPS)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, tokens, width) → query, key and value. Each is (rows, heads, tokens, head width)."""
        rows, tokens, width = x.shape
        parts = self.qkv(x).view(rows, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        return query, key, value

    def finish(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attend, project, add to `x`, norm: (rows, tokens, width).

        Args:
            x: (rows, tokens, width).
            query: (rows, heads, tokens, head width); key and value with their own number of tokens.
            mask: (…, tokens, keys), True where a query may look; None: everywhere.
        """
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        normed: Tensor = self.norm(sum_of(x, self.out, join_heads(mixed)))
        return normed

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(rows, tokens, width) → the same; `mask` as in `finish`."""
        return self.finish(x, *self.project(x), mask)


class CrossLayer(nn.Module):
    """Cross-attention to a memory, then feed-forward.

    Each is behind a residual sum and a norm.

    The number of heads is the caller's: Tag2Text shares these weights between its tag head and the first layers of
    its tag encoder, which cut the same channels into different heads.
    """

    def __init__(self, width: int, memory: int, hidden: int) -> None:
        super().__init__()
        self.attention_dropout = 0.0
        """The dropout of attention weights, in training alone."""
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory, width)
        self.value = nn.Linear(memory, width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=EPS)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.mlp_norm = nn.LayerNorm(width, eps=EPS)

    def remember(self, memory: Tensor, heads: int) -> KeyValue:
        """(images, tokens, memory width) → keys and values for every step."""
        return KeyValue(split_heads(self.key(memory), heads), split_heads(self.value(memory), heads))

    def forward(
        self, x: Tensor, memory: KeyValue, visible: Tensor | None = None, query: Tensor | None = None
    ) -> Tensor:
        """(images, queries, width) → the same.

        Args:
            visible: True where a query may look; None: everywhere.
            query: the projected queries (images, heads, queries, head width), if they are known.
        """
        query = split_heads(self.query(x), memory.key.shape[1]) if query is None else query
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, memory.key, memory.value, attn_mask=visible, dropout_p=dropout)
        return self.feed_forward(self.attention_norm(sum_of(x, self.out, join_heads(mixed))))

    def feed_forward(self, x: Tensor) -> Tensor:
        """(…, width) → the same, behind the residual sum and the norm."""
        normed: Tensor = self.mlp_norm(sum_of(x, self.down, gelu_of(self.up, x)))
        return normed


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
    """A layer's keys, values and folded projections of a batch of images."""

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
            else:
                x = layer(x, part.plain, query=None if known is None else known.expand(images, -1, -1, -1))
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
        """Whether folding saves more multiplications for labels than it costs for tokens."""
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
