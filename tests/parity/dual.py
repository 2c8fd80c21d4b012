"""SigLIP 2 and CLIP filled by a recipe, under the names of both published layouts."""

import ast
import math
import re
import zlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.parity.subjects import REFERENCE
from workers.models.dual.importer import CLIP_MEAN, CLIP_STD, HALF
from workers.models.dual.layouts import Encoder, read
from workers.models.dual.towers import ImageTower, TextTower, filled

PICTURES = 2


class Dual:
    """A reference and the towers that have to reproduce it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.clip = name.startswith("clip")
        self.heads = (4, 4) if name.endswith("small") else None

    @cached_property
    def wanted(self) -> dict[str, NDArray[Any]]:
        with np.load(REFERENCE / f"{self.name}.npz") as file:
            return dict(file)

    @cached_property
    def published(self) -> dict[str, Tensor]:
        """All parameters under the names of transformers."""
        lines = (REFERENCE / f"{self.name}_keys.txt").read_text().splitlines()
        shapes = {name: tuple(ast.literal_eval(shape)) for name, _, shape in (line.partition(" ") for line in lines)}
        return {name: torch.from_numpy(np.asarray(_drawn(name, shape))) for name, shape in shapes.items()}

    @cached_property
    def encoder(self) -> Encoder:
        return read(self.published, "reference", heads=self.heads)

    @cached_property
    def image(self) -> ImageTower:
        return filled(ImageTower, self.encoder.config, self.encoder.image)

    @cached_property
    def text(self) -> TextTower:
        return filled(TextTower, self.encoder.config, self.encoder.text)

    @cached_property
    def images(self) -> Tensor:
        side = self.encoder.config.side
        pixels = torch.from_numpy(np.stack([_picture(number, side) for number in range(PICTURES)]))
        mean, std = (CLIP_MEAN, CLIP_STD) if self.clip else (HALF, HALF)
        return (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    @cached_property
    def ids(self) -> tuple[Tensor, Tensor]:
        """Token ids, and where each text is read."""
        ids = torch.from_numpy(self.wanted["token_ids"]).long()
        last = self.encoder.config.vocabulary - 1
        return ids, (ids == last).int().argmax(1) if self.clip else torch.full((len(ids),), ids.shape[1] - 1)

    def expect(self, name: str, found: Tensor, within: float) -> None:
        wanted = self.wanted[name]
        assert found.shape == wanted.shape
        assert np.abs(found.numpy() - wanted).max() <= within

    def __repr__(self) -> str:
        return self.name


def elsewhere(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters as open_clip names them: with timm's image tower for SigLIP, as OpenAI did for CLIP."""
    clip = "visual_projection.weight" in published
    blocks = {"vision": "visual.transformer.resblocks" if clip else "visual.trunk.blocks"}
    blocks["text"] = "transformer.resblocks" if clip else "text.transformer.resblocks"
    openai = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj"}
    openai |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    timm = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj"}
    rest = _OPENAI if clip else _OPEN_CLIP
    found: dict[str, Tensor] = {}
    for name, tensor in published.items():
        block = re.fullmatch(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if block is None:
            module, _, kind = name.rpartition(".")
            target = rest.get(name) or f"{rest[module]}.{kind}"
            turned = target in ("visual.proj", "text_projection")
            shaped = tensor.view(()) if name.startswith("logit") else tensor[None] if "pos_embed" in target else tensor
            found[target] = tensor.T.contiguous() if turned else shaped
            continue
        side, number, layer, kind = block.groups()
        stem, names = f"{blocks[side]}.{number}", timm if side == "vision" and not clip else openai
        if layer == "self_attn.q_proj":
            parts = [published[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            joined = f"attn.qkv.{kind}" if names is timm else f"attn.in_proj_{kind}"
            found[f"{stem}.{joined}"] = torch.cat(parts)
        elif layer not in ("self_attn.k_proj", "self_attn.v_proj"):
            found[f"{stem}.{names.get(layer, layer)}.{kind}"] = tensor
    for kind in ("weight", "bias") if not clip else ():
        joint = found.pop(f"in_proj_{kind}")
        width = len(joint) // 3
        found[f"visual.trunk.attn_pool.q.{kind}"] = joint[:width]
        found[f"visual.trunk.attn_pool.kv.{kind}"] = joint[width:]
    return found


_OPENAI = {
    "logit_scale": "logit_scale",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding": "visual.conv1",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
}
_OPEN_CLIP = {
    "logit_scale": "logit_scale",
    "logit_bias": "logit_bias",
    "vision_model.embeddings.patch_embedding": "visual.trunk.patch_embed.proj",
    "vision_model.embeddings.position_embedding.weight": "visual.trunk.pos_embed",
    "vision_model.post_layernorm": "visual.trunk.norm",
    "vision_model.head.probe": "visual.trunk.attn_pool.latent",
    "vision_model.head.attention.in_proj_weight": "in_proj_weight",
    "vision_model.head.attention.in_proj_bias": "in_proj_bias",
    "vision_model.head.attention.out_proj": "visual.trunk.attn_pool.proj",
    "vision_model.head.layernorm": "visual.trunk.attn_pool.norm",
    "vision_model.head.mlp.fc1": "visual.trunk.attn_pool.mlp.fc1",
    "vision_model.head.mlp.fc2": "visual.trunk.attn_pool.mlp.fc2",
    "text_model.embeddings.token_embedding.weight": "text.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
    "text_model.final_layer_norm": "text.ln_final",
    "text_model.head": "text.text_projection",
}


def _drawn(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The reference model's tensor under this name: drawn from the name, at a scale that keeps activations in range."""
    if not shape or name.startswith("logit"):
        return np.full(shape, math.log(110) if name == "logit_scale" else -16, np.float32)
    values = _generator(f"A:{name}").standard_normal(shape, dtype=np.float32)
    if ("norm" in name or "layrnorm" in name) and name.endswith("weight"):
        return np.float32(1) + np.float32(0.1) * values
    if name.endswith("bias"):
        return np.float32(0.05) * values
    if name.endswith("probe"):
        return values
    if "_embedding" in name and "patch" not in name:
        return np.float32(0.3) * values
    sharp = name.endswith(("q_proj.weight", "k_proj.weight", "in_proj_weight"))
    return np.float32((1.5 if sharp else 1.0) / math.sqrt(math.prod(shape[1:]))) * values


def _picture(number: int, side: int) -> NDArray[np.uint8]:
    """(side, side, 3): colour waves under grain."""
    random = _generator(f"A:picture:{number}")
    line = np.linspace(0, 1, side)
    y, x = line[:, None], line[None, :]
    waves = [(np.sin(a * x + b) * np.cos(c * y + d) + 1) / 2 for a, b, c, d in random.random((3, 4)) * 12]
    grain = 0.15 * random.standard_normal((side, side, 3))
    levels: NDArray[np.uint8] = (np.clip(np.stack(waves, -1) + grain, 0, 1) * 255).round().astype(np.uint8)
    return levels


def _generator(key: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(zlib.crc32(key.encode())))
