"""The sizes of a checkpoint, read from the shapes of its tensors: fine-tunes differ from what was published.

Found are the encoder (Swin-B or Swin-L, its windows) and the number of labels. What shapes don't tell, heads of the tag
head and of the text branch, is as published. Images have the side at which the last stage is one window, as all
published sizes do: 224 pixels for windows of 7 tokens, 384 for windows of 12.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from workers.errors import Misconfigured
from workers.models.ram.config import PUBLISHED, AnyConfig, Kind, RamPlusConfig, SwinConfig
from workers.models.ram.resample import resampled, window_of
from workers.models.ram.swin import PATCH

Checkpoint = Mapping[str, Tensor]
"""Official name → tensor."""

_TABLE = re.compile(r"visual_encoder\.layers\.(\d)\.blocks\.(\d{1,2})\.attn\.relative_position_bias_table")
_PATCHES = "visual_encoder.patch_embed.proj.weight"


def kind_in(names: Checkpoint) -> Kind | None:
    """Which model a checkpoint is of, by its names."""
    if "fc.W" in names:
        return "tag2text"
    if "reweight_scale" in names:
        return "ram_plus"
    return "ram" if {"label_embed", "fc.weight"} <= names.keys() else None


def sizes_in(checkpoint: Checkpoint, image_size: int | None = None) -> AnyConfig:
    """The configuration that a checkpoint fits; RAM without its captioning branch.

    Args:
        image_size: side of the images, pixels; None takes the one that the checkpoint was trained with. Where they
            differ, `with_windows` makes the checkpoint fit.

    Raises:
        Misconfigured: no checkpoint of these models, or shapes and image that do not go together.
    """
    kind = kind_in(checkpoint)
    if kind is None:
        raise Misconfigured("this is no checkpoint of RAM, RAM++ or Tag2Text: it has none of their classifiers.")
    found = replace(PUBLISHED[kind], encoder=_encoder(checkpoint, image_size))
    embedded = checkpoint.get("label_embed.weight" if kind == "tag2text" else "label_embed")
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
        raise Misconfigured(f"its relative position bias tables of the shape {shape} are for no square window.")
    return _side(window, stages)


def with_windows(checkpoint: Checkpoint, window: int) -> Checkpoint:
    """The checkpoint with its relative position biases for windows of this side, resampled where it has others."""
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
        raise Misconfigured("it has no Swin transformer as its image encoder.")
    return found


def _side(window: int, stages: int) -> int:
    """The side of an image whose last stage is one window of this side."""
    return window * (PATCH << (stages - 1))
