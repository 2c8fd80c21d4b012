"""Attention inside windows on a CPU, some windows at a time, so that their scores stay in the cores' caches.

torch's fused attention multiplies blocks of 32 queries, too few for a processor's full rate: windows of 144 tokens with
heads 32 wide took 1.4 to 1.7 times as long in bf16, and 1.2 to 1.6 times in fp32 (two cores of a Zen 4).
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

SCORES_BYTES = 1 << 20
"""Of the scores that one thread works on at a time: about what the second-level cache of a core holds."""


def attend(qkv: Tensor, bias: Tensor) -> Tensor:
    """Softmax-weighted values of each window. Inference on a CPU alone; scores and softmax are fp32 in any dtype.

    Args:
        qkv: (images, windows, tokens, 3, heads, head width), queries, keys and values.
        bias: (1 or windows, heads, tokens, tokens), what is added to the scaled products.

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
