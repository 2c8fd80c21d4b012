"""The image encoder: a Swin transformer whose tokens stay in window order from end to end.

Everything but attention treats tokens one by one, so the order they stand in is free. Between an unshifted and a
shifted block one gather brings them into the next block's windows, and patch merging reads straight from there into
the next stage's windows: one copy a block, and no rolling, cutting and putting back. An order is a (tokens,) int64
tensor that holds, for each place, the row-major index of the token that stands there.

On a CPU attention takes some windows at a time, so that their scores stay in the cores' caches: torch's fused attention
multiplies blocks of 32 queries, too few for a processor's full rate. Windows of 144 tokens with heads 32 wide took 1.4
to 1.7 times as long in bf16, and 1.2 to 1.6 times in fp32 (two cores of a Zen 4).
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.models.cpu_layers import gelu_of, sum_of
from workers.models.ram.config import SwinConfig
from workers.models.ram.layers import layers_of


def window_order(grid: int, window: int, shift: int) -> Tensor:
    """(grid²,) order of windows, the grid rolled up and left by `shift`."""
    tokens = torch.arange(grid * grid, device="cpu").view(grid, grid).roll((-shift, -shift), (0, 1))
    return _cut(tokens, window).flatten()


def change_of_order(old: Tensor, new: Tensor) -> Tensor:
    """The index (tokens,) that turns the old order into the new: `x[:, index]`."""
    return torch.argsort(old)[new]


def merge_order(grid: int, coarse: Tensor) -> Tensor:
    """(grid²,): four source tokens for each token of the half grid.

    The half grid's tokens are in the order `coarse`, (grid² / 4,); the sources are row-major. The four of a two by two
    patch are top left, bottom left, top right, bottom right.
    """
    half = grid // 2
    top_left = 2 * grid * (coarse // half) + 2 * (coarse % half)
    return torch.stack((top_left, top_left + grid, top_left + 1, top_left + grid + 1), dim=1).flatten()


def relative_index(window: int) -> Tensor:
    """(window², window²) row of the bias table for each query and key: by distance in y, then in x."""
    y, x = (axis.flatten() for axis in torch.meshgrid(*(torch.arange(window, device="cpu"),) * 2, indexing="ij"))
    dy = y[:, None] - y[None, :] + window - 1
    dx = x[:, None] - x[None, :] + window - 1
    return dy * (2 * window - 1) + dx


def shift_mask(grid: int, window: int, shift: int) -> Tensor:
    """(windows, window², window²) float32: 0 where two tokens of a rolled grid were adjacent before, else -100.

    Rolling brings the far edges side by side; tokens of different bands must not see each other.
    """
    band = torch.zeros(grid, dtype=torch.int64, device="cpu")
    band[grid - window : grid - shift] = 1
    band[grid - shift :] = 2
    region = _cut(band[:, None] * 3 + band[None, :], window)
    return (region[:, :, None] != region[:, None, :]).float() * -100.0


def _cut(grid: Tensor, window: int) -> Tensor:
    """(side, side) → (windows, window²)."""
    count = grid.shape[0] // window
    return grid.view(count, window, count, window).transpose(1, 2).reshape(count * count, window * window)


SCORES_BYTES = 1 << 20
"""Bytes of one thread's scores: about a core's second-level cache."""


def attend(qkv: Tensor, bias: Tensor) -> Tensor:
    """Softmax-weighted values of each window, for inference on a CPU; scores and softmax are fp32 in any dtype.

    Args:
        qkv: (images, windows, tokens, 3, heads, head width), queries, keys and values.
        bias: (1 or windows, heads, tokens, tokens), added to the scaled products.

    Returns:
        (images, windows, tokens, heads · head width) in the dtype of `qkv`.
    """
    images, windows, tokens, _, heads, width = qkv.shape
    size = max(1, torch.get_num_threads() * SCORES_BYTES // (heads * tokens * tokens * torch.float32.itemsize))
    kept = qkv.new_empty((min(size, windows), heads, tokens, tokens), dtype=torch.float32)
    mixed = qkv.new_empty((images, windows, tokens, heads, width))
    for image, first in product(range(images), range(0, windows, size)):
        chunk = slice(first, first + size)
        queries, keys, values = qkv[image, chunk].permute(2, 0, 3, 1, 4)
        scores = kept[: len(queries)].copy_(bias if len(bias) == 1 else bias[chunk]).flatten(0, 1)
        scores.baddbmm_(_exact(queries), _exact(keys).transpose(1, 2), alpha=width**-0.5)
        torch.softmax(scores, dim=-1, out=scores)
        found = torch.bmm(scores.to(values.dtype), values.flatten(0, 1))
        mixed[image, chunk] = found.view(-1, heads, tokens, width).transpose(1, 2)
    return mixed.flatten(3)


def _exact(x: Tensor) -> Tensor:
    """(windows, heads, tokens, width) → (windows · heads, tokens, width) in fp32."""
    return x.to(torch.float32, memory_format=torch.contiguous_format).flatten(0, 1)


EPS = 1e-5
PATCH = 4
WIDE_STAGES = 2
"""The first stages, where one image's layer output fills a CPU's cache."""
THREADS_AN_IMAGE = 8
"""Threads that share a cache which holds those outputs of one image."""
LAYER_BYTES = 16 << 20
"""Of a layer's output in the later stages. A worker gives larger blocks back to the system (`intake.heap`), which
clears fresh pages for each."""


class WindowAttention(nn.Module):
    """Multi-head attention inside each window, with learned relative position biases.

    Args:
        grid: side of the token grid; `shift` 0 for blocks whose windows tile it plainly.
    """

    bias_index: Tensor
    mask: Tensor | None
    frozen_bias: Tensor | None

    def __init__(self, width: int, heads: int, grid: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_chunks = False
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("bias_index", relative_index(window).flatten(), persistent=False)
        self.register_buffer("mask", shift_mask(grid, window, shift) if shift else None, persistent=False)
        self.register_buffer("frozen_bias", None, persistent=False)

    def freeze(self) -> None:
        """Keep the bias and mask as one tensor; the table must not change afterwards."""
        with torch.no_grad():
            self.frozen_bias = self.bias().contiguous()

    def run_in_chunks(self) -> None:
        """Attend to some windows at a time (`attend`): inference on a CPU."""
        self.in_chunks = True
        if self.frozen_bias is not None:
            self.frozen_bias = self.frozen_bias.contiguous()  # a model placed after freezing has it channels-last

    def bias(self) -> Tensor:
        """The addend of the scaled products: (1 or windows, heads, window², window²)."""
        places = int(self.bias_index.numel() ** 0.5)
        bias = self.bias_table[self.bias_index].view(1, places, places, self.heads).permute(0, 3, 1, 2)
        return bias if self.mask is None else bias + self.mask[:, None].to(bias.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(images, windows, window², width) → the same, before the output projection `out`."""
        images, windows, places, width = x.shape
        bias = self.bias() if self.frozen_bias is None else self.frozen_bias
        parts = self.qkv(x).view(images, windows, places, 3, self.heads, width // self.heads)
        if self.in_chunks:
            return attend(parts, bias)
        if bias.shape[0] == 1 or images == 1:
            q, k, v = parts.flatten(0, 1).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            # Windows have masks of their own and images share them: windows as heads let the mask broadcast.
            q, k, v = parts.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.flatten(0, 1)[None])
        mixed = mixed.view(images, windows, self.heads, places, -1).transpose(2, 3)
        return mixed.reshape(x.shape)


class Block(nn.Module):
    """Attention and feed-forward, each before a residual sum, each behind its norm."""

    def __init__(self, width: int, heads: int, grid: int, window: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.window_tokens = window * window
        self.attention_norm = nn.LayerNorm(width, eps=EPS)
        self.attention = WindowAttention(width, heads, grid, window, shift)
        self.mlp_norm = nn.LayerNorm(width, eps=EPS)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(images, tokens, width) in this block's window order → the same."""
        windows = self.attention_norm(x).view(x.shape[0], -1, self.window_tokens, x.shape[2])
        x = sum_of(x, self.attention.out, self.attention(windows).view(x.shape))
        return sum_of(x, self.down, gelu_of(self.up, self.mlp_norm(x)))


class Merge(nn.Module):
    """Four adjacent tokens become one of twice the width."""

    order: Tensor

    def __init__(self, width: int, order: Tensor) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, eps=EPS)
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)
        self.register_buffer("order", order, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(images, tokens, width) → (images, tokens / 4, 2 · width)."""
        images, tokens, width = x.shape
        fours = x.index_select(1, self.order).view(images, tokens // 4, 4 * width)
        merged: Tensor = self.reduce(self.norm(fours))
        return merged


class SwinStage(nn.Module):
    """Blocks on one grid, every second one shifted, then the merge."""

    to_shifted: Tensor
    to_plain: Tensor

    def __init__(self, width: int, depth: int, heads: int, grid: int, window: int, last: bool) -> None:
        super().__init__()
        shift = window // 2 if grid > window else 0
        window = min(grid, window)
        shifts = [shift if index % 2 else 0 for index in range(depth)]
        plain, shifted = window_order(grid, window, 0), window_order(grid, window, shift)
        self.blocks = layers_of(Block(width, heads, grid, window, each) for each in shifts)
        self.register_buffer("to_shifted", change_of_order(plain, shifted), persistent=False)
        self.register_buffer("to_plain", change_of_order(shifted, plain), persistent=False)
        self.merge: Merge | None = None
        if not last:
            coarse = window_order(grid // 2, min(grid // 2, window), 0)
            final = shifted if shifts[-1] else plain
            self.merge = Merge(width, torch.argsort(final)[merge_order(grid, coarse)])

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (images, tokens, width) → the next stage's, in plain window order."""
        shift = 0
        for block in self.blocks:
            if block.shift != shift:
                x = x.index_select(1, self.to_shifted if block.shift else self.to_plain)
                shift = block.shift
            x = block(x)
        if self.merge is not None:
            merged: Tensor = self.merge(x)
            return merged
        return x.index_select(1, self.to_plain) if shift else x


class Patches(nn.Module):
    """Patches of 4 × 4 pixels as tokens, in plain window order."""

    order: Tensor

    def __init__(self, width: int, grid: int, window: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, width, kernel_size=PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.register_buffer("order", window_order(grid, min(grid, window), 0), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(images, 3, side, side) normalised → (images, tokens, width)."""
        tokens = self.project(images).flatten(2).transpose(1, 2)
        normed: Tensor = self.norm(tokens.index_select(1, self.order))
        return normed


class Swin(nn.Module):
    """The whole encoder. Call `freeze` once the weights are loaded, moved and cast, unless it is to be trained."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.in_chunks = False
        grid = config.image_size // PATCH
        last = len(config.depths) - 1
        self.patches = Patches(config.width, grid, config.window)
        self.stages = layers_of(
            SwinStage(config.width << i, depth, heads, grid >> i, config.window, i == last)
            for i, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True))
        )
        self.norm = nn.LayerNorm(config.width_out, eps=EPS)

    def freeze(self) -> None:
        """Keep each block's bias and mask as one tensor: 140 MB in fp32 for Swin-L at 384."""
        for module in self.modules():
            if isinstance(module, WindowAttention):
                module.freeze()

    def run_in_chunks(self) -> None:
        """For inference on a CPU: attend to some windows at a time, and let few images at a time pass the first stages
        and some at a time the later ones. Then a layer's output is in cache when the next layer reads it, or at
        least in memory that the system need not clear."""
        self.in_chunks = True
        for module in self.modules():
            if isinstance(module, WindowAttention):
                module.run_in_chunks()

    def forward(self, images: Tensor) -> Tensor:
        """(images, 3, side, side) normalised → (images, 1 + tokens, width).

        Token 0 is the mean of the others, which come row by row.
        """
        if not self.in_chunks:
            return self._end(self._begin(images))
        few = max(1, torch.get_num_threads() // THREADS_AN_IMAGE)
        x = torch.cat([self._begin(each) for each in torch.split(images, few)])
        widest = 4 * x[0].nbytes  # of an image, between the layers of a feed-forward
        some = max(few, LAYER_BYTES // widest)
        return torch.cat([self._end(each) for each in torch.split(x, some)])

    def _begin(self, images: Tensor) -> Tensor:
        x: Tensor = self.patches(images)
        for stage in self.stages[:WIDE_STAGES]:
            x = stage(x)
        return x

    def _end(self, x: Tensor) -> Tensor:
        for stage in self.stages[WIDE_STAGES:]:
            x = stage(x)
        x = self.norm(x)
        return torch.cat((x.mean(dim=1, keepdim=True), x), dim=1)
