"""The layers of tag head, tag encoder and text decoder: post-norm, as in BERT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar, cast

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.models.cpu_layers import gelu_of, sum_of

EPS = 1e-12

Layer = TypeVar("Layer", bound=nn.Module)


class KeyValue(NamedTuple):
    """What queries attend to: (images, heads, tokens, head width) each."""

    key: Tensor
    value: Tensor


def layers_of(modules: Iterable[Layer]) -> Sequence[Layer]:
    """A ModuleList that keeps its elements' type."""
    return cast("Sequence[Layer]", nn.ModuleList(modules))


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
        """(rows, tokens, width) → query, key and value.

        Each is (rows, heads, tokens, head width).
        """
        rows, tokens, width = x.shape
        parts = self.qkv(x).view(rows, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        return query, key, value

    def finish(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attend, project, add to `x`, norm. `mask` is True where a query may look."""
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        normed: Tensor = self.norm(sum_of(x, self.out, join_heads(mixed)))
        return normed

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
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

    def forward(self, x: Tensor, memory: KeyValue) -> Tensor:
        """(images, queries, width) → the same."""
        query = split_heads(self.query(x), memory.key.shape[1])
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, memory.key, memory.value, dropout_p=dropout)
        return self.feed_forward(self.attention_norm(sum_of(x, self.out, join_heads(mixed))))

    def feed_forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.mlp_norm(sum_of(x, self.down, gelu_of(self.up, x)))
        return normed
