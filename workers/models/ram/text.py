"""The text side of Tag2Text (and of RAM's full checkpoint): a tag encoder and a text decoder over BERT layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.models.cpu_layers import PackedLinear, gelu_of
from workers.models.ram.config import TextConfig
from workers.models.ram.layers import EPS, CrossLayer, KeyValue, SelfAttention, layers_of


class Embeddings(nn.Module):
    """Token plus position, normed."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word = _table(config.vocabulary, config.width)
        self.position = _table(config.positions, config.width)
        self.norm = nn.LayerNorm(config.width, eps=EPS)

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Embeds (rows, n) ids from position `start` → (rows, n, width)."""
        positions = self.position.weight[start : start + ids.shape[1]]
        normed: Tensor = self.norm(self.word(ids) + positions)
        return normed


def _table(rows: int, width: int) -> nn.Embedding:
    """An embedding that is not drawn: drawing on the meta device imports torch's compiler, for seconds."""
    table: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)  # type: ignore[no-untyped-call]
    return table


class TagEncoder(nn.Module):
    """Reads the tags' names with an eye on the image.

    The cross-attention and feed-forward of its first layers belong to the tag head and are passed in.
    """

    def __init__(self, config: TextConfig, memory: int, shared: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.embeddings = Embeddings(config)
        self.attention = layers_of(SelfAttention(config.width, config.heads) for _ in range(config.layers))
        own = config.layers - shared
        self.cross = layers_of(CrossLayer(config.width, memory, config.hidden) for _ in range(own))

    def forward(self, ids: Tensor, mask: Tensor, tokens: Tensor, shared: Sequence[CrossLayer]) -> Tensor:
        """Hidden states (images, n, width), of padding too.

        Args:
            ids: (images, n) int64.
            mask: (images, n), false on padding.
            tokens: (images, 1 + tokens, memory width), all attended.
            shared: the tag head's layers.
        """
        x: Tensor = self.embeddings(ids)
        visible = mask.bool()[:, None, None, :]
        for attention, cross in zip(self.attention, (*shared, *self.cross), strict=True):
            x = cross(attention(x, visible), cross.remember(tokens, self.heads))
        return x


class DecoderCache:
    """A text decoder's state for some images between steps.

    Args:
        cross: for each layer the keys and values of the tag encoder's states, one row an image, whatever the beams.
        past: (layers, 2, rows, heads, positions, head width); rows are images × beams, image by image.
        length: positions filled so far.
    """

    def __init__(self, cross: list[KeyValue], past: Tensor) -> None:
        self.cross = cross
        self.past = past
        self.length = 0

    @property
    def images(self) -> int:
        return self.cross[0].key.shape[0]

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be taken several times. Images stay the same."""
        self.past = self.past.index_select(2, rows)

    def keep_images(self, images: Tensor) -> None:
        """Keep only these images' tag encoder states; `select` does it for the rows."""
        self.cross = [KeyValue(k.index_select(0, images), v.index_select(0, images)) for k, v in self.cross]


class TextDecoder(nn.Module):
    """Writes a text from the tag encoder's states."""

    bias: nn.Parameter

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.embeddings = Embeddings(config)
        self.attention = layers_of(SelfAttention(config.width, config.heads) for _ in range(config.layers))
        self.cross = layers_of(CrossLayer(config.width, config.width, config.hidden) for _ in range(config.layers))
        self.transform = nn.Linear(config.width, config.width)
        self.transform_norm = nn.LayerNorm(config.width, eps=EPS)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))
        self.packed_output: PackedLinear | None = None

    def pack_output(self, rows: int) -> None:
        """Keep a second copy of the token embeddings as packed output matrix."""
        self.packed_output = PackedLinear(self.embeddings.word.weight, self.bias, rows)

    def predict(self, hidden: Tensor) -> Tensor:
        """(…, width) → (…, vocabulary) logits of the next token; the token embeddings serve as output matrix."""
        ready = self.transform_norm(gelu_of(self.transform, hidden))
        if self.packed_output is not None:
            logits: Tensor = self.packed_output(ready)
            return logits
        return F.linear(ready, self.embeddings.word.weight, self.bias)

    def forward(self, ids: Tensor, mask: Tensor, states: Tensor) -> Tensor:
        """Teacher forcing: (rows, n) ids and mask → (rows, n, vocabulary) logits, one row of `states` a row."""
        n = ids.shape[1]
        causal = torch.ones(n, n, dtype=torch.bool, device=ids.device).tril()
        visible = causal & mask.bool()[:, None, None, :]
        x = self.embeddings(ids)
        for attention, cross in zip(self.attention, self.cross, strict=True):
            x = cross(attention(x, visible), cross.remember(states, self.heads))
        return self.predict(x)

    def open(self, states: Tensor, positions: int) -> DecoderCache:
        """An empty cache for texts of at most `positions` tokens.

        It has one row for each row of `states`, (images, n, width).
        """
        images, _, width = states.shape
        shape = (len(self.attention), 2, images, self.heads, positions, width // self.heads)
        return DecoderCache([cross.remember(states, self.heads) for cross in self.cross], states.new_zeros(shape))

    def step(self, ids: Tensor, cache: DecoderCache) -> Tensor:
        """Append (rows, n) ids → logits (rows, vocabulary) of the next token."""
        rows, n = ids.shape
        start, end = cache.length, cache.length + n
        x = self.embeddings(ids, start)
        mask = torch.ones(n, end, dtype=torch.bool, device=ids.device).tril(start) if n > 1 else None
        for index, (attention, cross) in enumerate(zip(self.attention, self.cross, strict=True)):
            past = cache.past[index]
            query, past[0, :, :, start:end], past[1, :, :, start:end] = attention.project(x)
            x = attention.finish(x, query, past[0, :, :, :end], past[1, :, :, :end], mask)
            # beams of an image share its memory: they are queries of one row
            x = cross(x.view(cache.images, -1, x.shape[-1]), cache.cross[index]).view(rows, n, -1)
        cache.length = end
        return self.predict(x[:, -1])


class TextBranch(nn.Module):
    """Tag encoder and text decoder together."""

    def __init__(self, config: TextConfig, memory: int, shared: int) -> None:
        super().__init__()
        self.tag_encoder = TagEncoder(config, memory, shared)
        self.decoder = TextDecoder(config)
