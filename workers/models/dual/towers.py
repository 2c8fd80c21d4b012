"""The towers of SigLIP 2 and CLIP in plain torch.

SigLIP 2 has a fixed resolution here. Both are stacks of pre-norm transformer blocks. What differs:

| | SigLIP | CLIP |
|---|---|---|
| activation | GELU in its tanh form | x · sigmoid(1.702 x) |
| epsilon of norms | 1e-6 | 1e-5 |
| image tokens | the patches | a class token before them, and a norm before the blocks |
| an image is read | by attention of one learnt query to all tokens | at the class token, through a projection |
| text tokens see | all, padding too | those before them |
| a text is read | at its last place, through a linear layer | at its end token, through a projection |

A vector has length 1 and is fp32 in any precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.errors import Misconfigured
from workers.models.cpu_layers import Activation, gelu_of, sum_of
from workers.models.dual.config import DualConfig, TowerConfig

Tower = TypeVar("Tower", bound=nn.Module)


class _Mixer(nn.Module):
    """Feed-forward layer behind a norm, with its residual sum."""

    activation: Activation

    def __init__(self, config: DualConfig, tower: TowerConfig) -> None:
        super().__init__()
        self.activation = "gelu_tanh" if config.kind == "siglip" else "quick_gelu"
        self.norm = _norm(config, tower)
        self.up = nn.Linear(tower.width, tower.hidden)
        self.down = nn.Linear(tower.hidden, tower.width)

    def forward(self, x: Tensor) -> Tensor:
        return sum_of(x, self.down, gelu_of(self.up, self.norm(x), self.activation))


class TowerBlock(nn.Module):
    """Self-attention and feed-forward layer, (rows, tokens, width) to the same."""

    def __init__(self, config: DualConfig, tower: TowerConfig) -> None:
        super().__init__()
        self.heads = tower.heads
        self.norm = _norm(config, tower)
        self.qkv = nn.Linear(tower.width, 3 * tower.width)
        self.out = nn.Linear(tower.width, tower.width)
        self.mixer = _Mixer(config, tower)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        parts = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.mixer(sum_of(x, self.out, mixed.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]


class AttentionPool(nn.Module):
    """SigLIP's reading of an image: one learnt query attends to all tokens, (rows, tokens, width) to (rows, width)."""

    def __init__(self, config: DualConfig, tower: TowerConfig) -> None:
        super().__init__()
        self.heads = tower.heads
        self.probe = nn.Parameter(torch.empty(tower.width))
        self.query = nn.Linear(tower.width, tower.width)
        self.key_value = nn.Linear(tower.width, 2 * tower.width)
        self.out = nn.Linear(tower.width, tower.width)
        self.mixer = _Mixer(config, tower)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(self.probe[None]).view(1, self.heads, 1, -1).expand(len(x), -1, -1, -1)
        key, value = self.key_value(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.mixer(self.out(F.scaled_dot_product_attention(query, key, value).flatten(1)))  # type: ignore[no-any-return]


class ImageTower(nn.Module):
    """Normalised images (n, 3, side, side) to vectors (n, dimensions)."""

    def __init__(self, config: DualConfig) -> None:
        super().__init__()
        tower, clip = config.image, config.kind == "clip"
        self.patches = nn.Conv2d(3, tower.width, config.patch, config.patch, bias=not clip)
        self.positions = nn.Parameter(torch.empty(config.patches + clip, tower.width))
        self.blocks = _blocks(config, tower)
        self.norm = _norm(config, tower)
        self.clip = clip
        if clip:
            self.class_token = nn.Parameter(torch.empty(tower.width))
            self.norm_before = _norm(config, tower)
            self.head = nn.Linear(tower.width, config.dimensions, bias=False)
        else:
            self.pool = AttentionPool(config, tower)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        if self.clip:
            x = torch.cat((self.class_token.expand(len(x), 1, -1), x), 1)
        x = x + self.positions
        if self.clip:
            x = self.norm_before(x)
        for block in self.blocks:
            x = block(x)
        x = self.head(self.norm(x[:, 0])) if self.clip else self.pool(self.norm(x))
        return F.normalize(x.float(), dim=-1)


class TextTower(nn.Module):
    """Token ids to vectors (n, dimensions)."""

    def __init__(self, config: DualConfig) -> None:
        super().__init__()
        tower, self.clip = config.text, config.kind == "clip"
        self.tokens = nn.Parameter(torch.empty(config.vocabulary, tower.width))
        self.positions = nn.Parameter(torch.empty(config.length, tower.width))
        self.blocks = _blocks(config, tower)
        self.norm = _norm(config, tower)
        self.head = nn.Linear(tower.width, config.dimensions, bias=not self.clip)

    def forward(self, ids: Tensor, ends: Tensor) -> Tensor:
        """
        Args:
            ids: (n, tokens) int64, at most `length` tokens.
            ends: (n,) int64, the place where each text is read.
        """
        positions = self.positions[: ids.shape[1]]
        x = F.embedding(ids, self.tokens).to(positions.dtype) + positions
        for block in self.blocks:
            x = block(x, self.clip)
        x = self.head(self.norm(x[torch.arange(len(x), device=x.device), ends]))
        return F.normalize(x.float(), dim=-1)


def filled(make: type[Tower], config: DualConfig, weights: Mapping[str, Tensor], where: object = "") -> Tower:
    """A tower with these parameters, which may stay in a mapped file.

    Raises Misconfigured: a parameter is missing, left over or of another shape.
    """
    with torch.device("meta"):
        tower = make(config)
    try:
        tower.load_state_dict(dict(weights), assign=True)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()[:500]
        raise Misconfigured(f"{where}: the weights do not fit the architecture: {detail}") from None
    return tower.eval().requires_grad_(False)


def shapes(make: type[Tower], config: DualConfig) -> dict[str, tuple[int, ...]]:
    """The name and shape of every parameter of a tower."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in make(config).state_dict().items()}


def _norm(config: DualConfig, tower: TowerConfig) -> nn.LayerNorm:
    return nn.LayerNorm(tower.width, eps=1e-6 if config.kind == "siglip" else 1e-5)


def _blocks(config: DualConfig, tower: TowerConfig) -> Sequence[TowerBlock]:
    made: Iterable[TowerBlock] = (TowerBlock(config, tower) for _ in range(tower.layers))
    return cast("Sequence[TowerBlock]", nn.ModuleList(made))
