"""The sizes of a checkpoint, read from the shapes of its tensors: fine-tunes differ from the published models.

Found are the encoder (Swin-B or Swin-L, its windows) and the number of labels. Shapes don't show the numbers of heads,
which are as published. Images have the side at which the last stage is one window, as all
published sizes do: 224 pixels for windows of 7 tokens, 384 for windows of 12.

For other windows the tables of relative position biases are resampled. The original programs stretch a table as BEiT's
fine-tuning does (Bao et al., 2021): known distances move apart in geometric progression, 1, 1 + q, 1 + q + q², …, so
that near ones, which matter most, hardly move and the farthest lands on the farthest wanted one; a bicubic spline
through them is then read at whole distances. That spline is SciPy's `interp2d`, which SciPy no longer has. It is a
linear map, the same along both axes, so that here it is one small matrix; numbers agree to float32 rounding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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

    Raises Misconfigured: it has no Swin encoder, or one with windows that are not square.
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


CLOSEST, WIDEST = 1.01, 1.5
"""Between these the ratio q of the progression is looked for."""
_EXACT = 1e-6
_CUBIC = 3

Numbers = NDArray[np.float64]


def window_of(table: Tensor) -> int | None:
    """The window's side w of a bias table ((2w - 1)², heads); None for another number of rows."""
    side = math.isqrt(table.shape[0])
    return (side + 1) // 2 if side % 2 and side * side == table.shape[0] else None


def resampled(table: Tensor, window: int) -> Tensor:
    """The bias table resampled to another window, in fp32.

    From ((2w - 1)², heads). The result is ((2 · window - 1)², heads). A table of that size is returned itself.
    """
    old = math.isqrt(table.shape[0])
    if old == 2 * window - 1:
        return table
    read = _readings(old // 2, window - 1)
    stretched = np.einsum("yi,ijh,xj->yxh", read, table.double().numpy().reshape(old, old, -1), read)
    return torch.from_numpy(stretched.reshape((2 * window - 1) ** 2, -1)).float()


def _readings(known: int, wanted: int) -> Numbers:
    """(2 wanted + 1, 2 known + 1): along one axis, what each known distance adds to each wanted one."""
    far = _places(known, wanted)
    places = np.concatenate((-far[::-1], [0.0], far))
    degree = _CUBIC if len(places) > _CUBIC else 1
    inner = places[(degree + 1) // 2 : -(degree + 1) // 2]  # a cubic one has no knot at the second place from each end
    knots = np.concatenate((places[:1].repeat(degree + 1), inner, places[-1:].repeat(degree + 1)))
    whole = np.arange(-wanted, wanted + 1).clip(places[0], places[-1])
    known_at, read_at = _splines(places, knots, degree), _splines(whole, knots, degree)
    return np.linalg.solve(known_at.T, read_at.T).T.astype(np.float64)


def _places(known: int, wanted: int) -> Numbers:
    """New places of distances 1, 2, … `known`; the last lands on `wanted`."""
    low, high = CLOSEST, WIDEST
    while high - low > _EXACT:
        ratio = (low + high) / 2
        low, high = (low, ratio) if (ratio**known - 1) / (ratio - 1) > wanted else (ratio, high)
    return np.cumsum(ratio ** np.arange(known))


def _splines(x: Numbers, knots: Numbers, degree: int) -> Numbers:
    """(places, splines): every B-spline over these knots at each x, by the recursion of Cox and de Boor."""
    x = x[:, None]
    last = (x == knots[-1]) & (knots[:-1] < knots[1:]) & (knots[1:] == knots[-1])
    values: Numbers = (((knots[:-1] <= x) & (x < knots[1:])) | last).astype(np.float64)
    for d in range(1, degree + 1):
        rise, fall = knots[d:-1] - knots[: -d - 1], knots[d + 1 :] - knots[1:-d]
        rising = np.divide(x - knots[: -d - 1], rise, out=np.zeros_like(values[:, 1:]), where=rise > 0)
        falling = np.divide(knots[d + 1 :] - x, fall, out=np.zeros_like(values[:, 1:]), where=fall > 0)
        values = rising * values[:, :-1] + falling * values[:, 1:]
    return values
