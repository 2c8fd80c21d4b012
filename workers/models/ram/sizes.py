"""The sizes of a checkpoint, read from the shapes of its tensors: fine-tunes differ from the published models.

Found are the encoder (Swin-B or Swin-L, its windows) and the number of labels. Shapes don't show the numbers of heads,
which are as published. Images have the side at which the last stage is one window, as all
published sizes do: 224 pixels for windows of 7 tokens, 384 for windows of 12.

For other windows the tables of relative position biases are resampled by torch, as Swin's own programs do it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.errors import Misconfigured
from workers.models.ram.config import PUBLISHED, AnyConfig, RamPlusConfig, SwinConfig
from workers.models.ram.keys import TOP, kind_in
from workers.models.ram.swin import PATCH

Checkpoint = Mapping[str, Tensor]
"""Official name → tensor."""

_TABLE = re.compile(r"visual_encoder\.layers\.(\d)\.blocks\.(\d{1,2})\.attn\.relative_position_bias_table")
_PATCHES = "visual_encoder.patch_embed.proj.weight"


def sizes_in(checkpoint: Checkpoint, image_size: int | None = None) -> AnyConfig:
    """The configuration that a checkpoint fits; RAM without its captioning branch.

    Args:
        image_size: side of the images, pixels; None takes the one that the checkpoint was trained with. Where they
            differ, `with_windows` makes the checkpoint fit.

    Raises:
        Misconfigured: no checkpoint of these models, or shapes and image that don't fit together.
    """
    kind = kind_in(checkpoint)
    if kind is None:
        raise Misconfigured("this is no checkpoint of RAM, RAM++ or Tag2Text: it has none of their classifiers.")
    found = replace(PUBLISHED[kind], encoder=_encoder(checkpoint, image_size))
    embedded = checkpoint.get(next(name for name, ours in TOP[type(found)].items() if ours == "label_embed"))
    if embedded is None or embedded.dim() != 2:
        raise Misconfigured("it has no label_embed with a row for each label.")
    rows = embedded.shape[0]
    descriptions = found.descriptions if isinstance(found, RamPlusConfig) else 1
    if rows % descriptions:
        raise Misconfigured(f"its label_embed has {rows:,} rows, where RAM++ has {descriptions} for each label.")
    return replace(found, labels=rows // descriptions)


def trained_at(checkpoint: Checkpoint) -> int:
    """Side of the images that a checkpoint was trained with, pixels.

    Raises:
        Misconfigured: it has no Swin encoder, or one with windows that are not square.
    """
    tables = _tables(checkpoint)
    stages = 1 + max(stage for stage, _ in tables)
    window = window_of(next(iter(tables.values())))
    if window is None:
        shape = tuple(next(iter(tables.values())).shape)
        raise Misconfigured(f"its relative position bias tables of the shape {shape} fit no square window.")
    return _side(window, stages)


def with_windows(checkpoint: Checkpoint, window: int) -> Checkpoint:
    """The checkpoint with relative position biases for windows of this side."""
    return {
        name: resampled(tensor, window) if _TABLE.fullmatch(name) else tensor for name, tensor in checkpoint.items()
    }


def _encoder(checkpoint: Checkpoint, image_size: int | None) -> SwinConfig:
    tables = _tables(checkpoint)
    depths = [0] * (1 + max(stage for stage, _ in tables))
    heads = list(depths)
    for (stage, block), table in tables.items():
        depths[stage] = max(depths[stage], block + 1)
        heads[stage] = table.shape[1]
    if 0 in depths or len(tables) != sum(depths):
        raise Misconfigured(f"its image encoder lacks blocks: it has {len(tables)} in {len(depths)} stages.")
    side = image_size or trained_at(checkpoint)
    step = _side(1, len(depths))
    if side % step or side < 2 * step:
        raise Misconfigured(f"images of {side} x {side} don't fit this encoder: their side is a multiple of {step}.")
    return SwinConfig(side, checkpoint[_PATCHES].shape[0], tuple(depths), tuple(heads), side // step)


def _tables(checkpoint: Checkpoint) -> dict[tuple[int, int], Tensor]:
    """Relative position bias tables by stage and block."""
    found = {(int(m[1]), int(m[2])): t for name, t in checkpoint.items() if (m := _TABLE.fullmatch(name))}
    patches = checkpoint.get(_PATCHES)
    if not found or patches is None or patches.dim() != 4 or any(table.dim() != 2 for table in found.values()):
        raise Misconfigured("its image encoder is not a Swin transformer.")
    return found


def _side(window: int, stages: int) -> int:
    """The image side whose last stage is one window this wide."""
    return window * (PATCH << (stages - 1))


def window_of(table: Tensor) -> int | None:
    """The window's side w of a bias table ((2w - 1)², heads); None for another number of rows."""
    side = math.isqrt(table.shape[0])
    return (side + 1) // 2 if side % 2 and side * side == table.shape[0] else None


def resampled(table: Tensor, window: int) -> Tensor:
    """The bias table resampled to another window, bicubic, in fp32.

    From ((2w - 1)², heads). The result is ((2 · window - 1)², heads). A table of that size is returned itself.
    """
    old, new = math.isqrt(table.shape[0]), 2 * window - 1
    if old == new:
        return table
    grid = table.float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    stretched = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=True)
    return stretched.permute(0, 2, 3, 1).reshape(new * new, -1)
