"""RAM, RAM++ and Tag2Text in a size that a test makes in a moment, and checkpoints of that size."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tests.parity.subjects import checkpoint
from tests.support.kept import kept
from workers.models.bundle import Bundle
from workers.models.device import choose_device
from workers.models.ram.config import (
    AnyConfig,
    HeadConfig,
    Kind,
    RamConfig,
    RamPlusConfig,
    SwinConfig,
    Tag2TextConfig,
    TextConfig,
)
from workers.models.ram.importer import random_bundle

CPU = choose_device("cpu")

_SWIN = SwinConfig(image_size=64, width=16, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=2)
_HEAD = HeadConfig(width=96, heads=4, layers=2, hidden=192)
_TEXT = TextConfig(width=96, heads=6, layers=3, hidden=192)

SMALL: Mapping[Kind, AnyConfig] = {
    "ram": RamConfig(_SWIN, labels=60, head=_HEAD),
    "ram_plus": RamPlusConfig(_SWIN, labels=60, head=_HEAD, descriptions=5),
    "tag2text": Tag2TextConfig(_SWIN, labels=60, head=_HEAD, text=_TEXT),
}
"""An image of 64 x 64 leaves four tokens; every part is there."""


def small_bundle(kind: Kind, out: Path, *, config: AnyConfig | None = None, seed: int = 0) -> Bundle:
    sizes = config or SMALL[kind]
    kept(out, (kind, seed, sizes), lambda made: random_bundle(kind, made, seed=seed, dtype="fp32", config=sizes))
    return Bundle.open(out)


def small_checkpoint(kind: Kind, path: Path, changes: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Write a file like the published ones, optimizer and captioning branch included; returns its tensors."""
    tensors = {**_tensors(kind), **(changes or {})}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(9)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save({"model": tensors, "optimizer": optimizer, "epoch": 4}, path)
    return tensors


@cache
def _tensors(kind: Kind) -> Mapping[str, Tensor]:
    config = SMALL[kind]
    if isinstance(config, RamConfig):
        config = RamConfig(config.encoder, config.labels, config.head, text=_TEXT)
    return checkpoint(kind, config, 0.0, full=False)
