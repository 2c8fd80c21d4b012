"""Small dual encoders of random weights, as files like the published ones: a rehearsal that needs no hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from workers.models.dual.config import DualConfig, Kind, TowerConfig
from workers.models.dual.importer import RANDOM
from workers.models.dual.layouts import published_name
from workers.models.dual.tokens import SPECIAL
from workers.models.dual.towers import ImageTower, TextTower, shapes
from workers.models.files import disk_faults

_BYTES: Final = tuple(f"<0x{byte:02X}>" for byte in range(256))
_TOWER: Final = TowerConfig(width=64, hidden=256, layers=2, heads=1)
_SIGLIP: Final = DualConfig("siglip", "random", 64, 16, _TOWER, _TOWER, 260, 64, 64, scale=4.7, bias=-16.0)
SIZES: Final[Mapping[Kind, DualConfig]] = {"siglip": _SIGLIP, "clip": replace(_SIGLIP, kind="clip", bias=0.0)}
"""Images of 64 pixels; the text tower reads 62 bytes."""


def write_checkpoint(kind: Kind, weights: Path, tokenizer: Path, seed: int) -> None:
    """Write both files that `models import` reads. Raises Misconfigured: the disk is full."""
    from safetensors.torch import save_file

    with disk_faults(weights):
        save_file(_parameters(SIZES[kind], seed), weights, metadata={RANDOM: f"seed {seed}"})
        tokenizer.write_text(_tokenizer(kind), encoding="utf-8")


def _parameters(config: DualConfig, seed: int) -> dict[str, Tensor]:
    """Seeded parameters by published names."""
    made = torch.Generator().manual_seed(seed)
    tensors = {"logit_scale": torch.tensor(config.scale)}
    if config.kind == "siglip":
        tensors["logit_bias"] = torch.tensor(config.bias)
    for side, tower in (("image", ImageTower), ("text", TextTower)):
        for name, shape in shapes(tower, config).items():
            scale = 0.01 if len(shape) < 2 or name in ("tokens", "positions") else shape[-1] ** -0.5
            drawn = scale * torch.randn(shape, generator=made)
            is_gain = "norm" in name and name.endswith("weight")
            tensors[published_name(f"{side}.{name}")] = drawn + 1 if is_gain else drawn
    return tensors


def _tokenizer(kind: Kind) -> str:
    """A tokenizer.json that cuts any text into its bytes."""
    from tokenizers import Tokenizer, models

    pieces = (*SPECIAL[kind], "<unk>", *_BYTES)
    numbers = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(numbers, [], unk_token="<unk>", byte_fallback=True))
    made.add_special_tokens(list(SPECIAL[kind]))
    return str(made.to_str())
