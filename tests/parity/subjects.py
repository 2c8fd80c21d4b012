"""The models under test: filled by the recipe through the names of the published checkpoints."""

import json
import re
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tests.parity import recipe
from workers.models.ram import config as sizes
from workers.models.ram.config import PUBLISHED, AnyConfig, Kind, RamConfig
from workers.models.ram.keys import plan, translate
from workers.models.ram.networks import LabelScorer, empty_model, filled_model
from workers.models.ram.wordpiece import ENC, GUIDE_LENGTH, PAD, SEP

REFERENCE = Path(__file__).with_name("reference")
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

SWIN = sizes.SwinConfig(image_size=384, width=16, depths=(2, 2, 4, 2), heads=(1, 2, 4, 8), window=12)
HEAD = sizes.HeadConfig(width=96, heads=4, layers=2, hidden=192)
TEXT = sizes.TextConfig(width=96, heads=6, layers=3, hidden=192)

SMALL: dict[Kind, AnyConfig] = {
    "ram": RamConfig(SWIN, labels=60, head=HEAD, text=TEXT),
    "ram_plus": sizes.RamPlusConfig(SWIN, labels=60, head=HEAD),
    "tag2text": sizes.Tag2TextConfig(SWIN, labels=3429, head=HEAD, text=TEXT),
}

Scorer = TypeVar("Scorer", bound=LabelScorer)


def config_of(kind: Kind, size: str) -> AnyConfig:
    """The configuration of a reference; RAM with its captioning branch, so that this is compared too."""
    config = SMALL[kind] if size == "small384" else PUBLISHED[kind]
    return replace(config, text=config.text or sizes.TextConfig()) if isinstance(config, RamConfig) else config


def official_keys(kind: Kind) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in the published checkpoint."""
    keys = {}
    for line in (REFERENCE / f"{kind}_keys.txt").read_text().splitlines():
        name, _, shape = line.split(" ", 2)
        keys[name] = tuple(map(int, re.findall(r"\d+", shape)))
    return keys


def names_in(config: AnyConfig, kind: Kind) -> list[str]:
    depths = config.encoder.depths
    text = getattr(config, "text", None)
    names = []
    for name in official_keys(kind):
        block = re.match(r"visual_encoder\.layers\.(\d+)\.blocks\.(\d+)\.", name)
        layer = re.match(r"(?:tag_encoder|text_decoder\.bert)\.encoder\.layer\.(\d+)\.", name)
        if block and int(block[2]) >= depths[int(block[1])]:
            continue
        if layer and (text is None or int(layer[1]) >= text.layers):
            continue
        names.append(name)
    return names


def checkpoint(kind: Kind, config: AnyConfig, bias_shift: float, *, full: bool) -> dict[str, Tensor]:
    """All tensors of an official checkpoint of this size; constants are empty."""
    names = names_in(config, kind)
    found = plan(names, config)
    ours = {name: tuple(tensor.shape) for name, tensor in empty_model(config).state_dict().items()}
    tensors: dict[str, Tensor] = {}
    for name in names:
        target = found.loaded.get(found.tied.get(name, name))
        if target is None:
            tensors[name] = torch.zeros(1, dtype=torch.int64)
            continue
        shape = ours[target.name]
        shape = (shape[0] // target.blocks, *shape[1:]) if shape else shape
        drawn = recipe.canonical(name, has_tag_encoder=kind != "ram_plus")
        values = recipe.parameter(drawn, shape, full=full, text_width=768 if full else 96)
        tensors[name] = torch.from_numpy(np.asarray(values)).clone()
    tensors["fc.b" if kind == "tag2text" else "fc.bias"] += bias_shift
    return tensors


@dataclass(frozen=True)
class Subject:
    kind: Kind
    size: str

    @cached_property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((REFERENCE / f"{self.kind}_{self.size}.json").read_text())
        return facts

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        with np.load(REFERENCE / f"{self.kind}_{self.size}.npz") as file:
            return dict(file)

    @cached_property
    def config(self) -> AnyConfig:
        return config_of(self.kind, self.size)

    @cached_property
    def model(self) -> LabelScorer:
        weights = checkpoint(self.kind, self.config, self.facts["bias_shift"], full=self.size == "full")
        model = filled_model(self.config, translate(weights, self.config))
        model.freeze()
        return model

    @cached_property
    def tokens(self) -> Tensor:
        return self.model.encode(images())

    @cached_property
    def embeds(self) -> Tensor:
        return self.model.embed(self.tokens)

    def expect(self, name: str, found: Tensor, *, within: float = 1e-4) -> None:
        wanted = self.arrays[name]
        assert tuple(found.shape) == wanted.shape
        assert np.abs(found.numpy() - wanted).max() <= within

    def __repr__(self) -> str:
        return f"{self.kind}-{self.size}"


@cache
def pixels(index: int) -> NDArray[np.uint8]:
    """(384, 384, 3), an image of the recipe as the published transform leaves it."""
    resized = Image.fromarray(recipe.image(index)).resize((384, 384), Image.Resampling.BILINEAR)
    return np.asarray(resized)


@cache
def images() -> Tensor:
    scaled = torch.from_numpy(np.stack([pixels(0), pixels(1)])).permute(0, 3, 1, 2) / 255
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def guide_ids(text: str) -> tuple[list[int], list[int]]:
    """Ids and mask of a guide of the reference, as bert-base-uncased's tokenizer cuts it."""
    body: list[int] = json.loads((REFERENCE / "guides.json").read_text())[text]
    ids = [ENC, *body[: GUIDE_LENGTH - 2], SEP]
    padding = GUIDE_LENGTH - len(ids)
    return ids + [PAD] * padding, [1] * len(ids) + [0] * padding
