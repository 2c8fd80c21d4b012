"""Published parameter names to ours: of transformers, of open_clip with timm's image towers, and OpenAI's own.

No name means two things in two layouts, so one table reads them all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from workers.errors import Misconfigured
from workers.models.dual.config import DualConfig, Kind, TowerConfig, from_json, to_json
from workers.models.dual.towers import ImageTower, TextTower, shapes
from workers.models.ram.keys import joined


def _table(text: str) -> dict[str, str]:
    """Published name → ours, of lines that begin with ours."""
    lines = (line.split() for line in text.strip().splitlines())
    return {published: ours for ours, *names in lines for published in names}


_STACKS = _table("""
image.blocks  vision_model.encoder.layers  visual.transformer.resblocks  visual.trunk.blocks
text.blocks   text_model.encoder.layers    transformer.resblocks         text.transformer.resblocks
""")
_LAYERS = _table("""
norm        layer_norm1         ln_1           norm1
qkv         attn.in_proj        attn.qkv
qkv#0       self_attn.q_proj
qkv#1       self_attn.k_proj
qkv#2       self_attn.v_proj
out         self_attn.out_proj  attn.out_proj  attn.proj
mixer.norm  layer_norm2         ln_2           norm2
mixer.up    mlp.fc1             mlp.c_fc
mixer.down  mlp.fc2             mlp.c_proj
""")
"""Behind `#` stands the place among tensors that are put together: query, key, value."""
_MODULES = _table("""
image.patches          vision_model.embeddings.patch_embedding  visual.conv1    visual.trunk.patch_embed.proj
image.norm_before      vision_model.pre_layrnorm                visual.ln_pre
image.norm             vision_model.post_layernorm              visual.ln_post  visual.trunk.norm
image.head             visual_projection
image.pool.in          vision_model.head.attention.in_proj
image.pool.query       visual.trunk.attn_pool.q
image.pool.key_value   visual.trunk.attn_pool.kv
image.pool.out         vision_model.head.attention.out_proj     visual.trunk.attn_pool.proj
image.pool.mixer.norm  vision_model.head.layernorm              visual.trunk.attn_pool.norm
image.pool.mixer.up    vision_model.head.mlp.fc1                visual.trunk.attn_pool.mlp.fc1
image.pool.mixer.down  vision_model.head.mlp.fc2                visual.trunk.attn_pool.mlp.fc2
text.norm              text_model.final_layer_norm              ln_final        text.ln_final
text.head              text_model.head                          text_projection text.text_projection
""")
_PARAMETERS = _table("""
image.positions     vision_model.embeddings.position_embedding.weight  visual.positional_embedding  visual.trunk.pos_embed
image.class_token   vision_model.embeddings.class_embedding            visual.class_embedding
image.pool.probe    vision_model.head.probe                            visual.trunk.attn_pool.latent
image.head.weight'  visual.proj
text.tokens         text_model.embeddings.token_embedding.weight       token_embedding.weight       text.token_embedding.weight
text.positions      text_model.embeddings.position_embedding.weight    positional_embedding         text.positional_embedding
text.head.weight'   text_projection
logit_scale         logit_scale
logit_bias          logit_bias
""")  # noqa: E501
"""An apostrophe marks a matrix that is published transposed."""
_CONSTANT = ".position_ids"
"""End of a name that older files hold too: the position ids."""
_HEADS = {1152: 16, 1536: 16}
"""By width, where a head is not 64 channels wide."""


class Encoder(NamedTuple):
    """A file's content: sizes and the parameters of both towers, under our names."""

    config: DualConfig
    image: dict[str, Tensor]
    text: dict[str, Tensor]


def target_of(name: str) -> str | None:
    """Our name for a published one; None: it is not known."""
    if name in _PARAMETERS:
        return _PARAMETERS[name]
    name = name.replace("in_proj_", "in_proj.")
    module, _, kind = name.rpartition(".")
    if kind in ("weight", "bias") and module in _MODULES:
        return f"{_MODULES[module]}.{kind}"
    stack = next((each for each in _STACKS if module.startswith(f"{each}.")), "")
    number, _, layer = module.removeprefix(f"{stack}.").partition(".")
    if not stack or layer not in _LAYERS or kind not in ("weight", "bias") or not re.fullmatch("[0-9]{1,2}", number):
        return None
    layer, mark, place = _LAYERS[layer].partition("#")
    return f"{_STACKS[stack]}.{int(number)}.{layer}.{kind}{mark}{place}"


_PUBLISHED = {
    ours: published for table in (_STACKS, _LAYERS, _MODULES, _PARAMETERS) for published, ours in table.items()
}


def published_name(ours: str) -> str:
    """A name that `target_of` reads as this parameter."""
    if ours in _PUBLISHED:
        return _PUBLISHED[ours]
    module, _, kind = ours.rpartition(".")
    side, is_block, rest = module.partition(".blocks.")
    if not is_block:
        return f"{_PUBLISHED[module]}.{kind}"
    number, _, layer = rest.partition(".")
    return f"{_PUBLISHED[f'{side}.blocks']}.{number}.{_PUBLISHED[layer]}.{kind}"


def read(
    tensors: Mapping[str, Tensor],
    space: str,
    *,
    side: int | None = None,
    heads: tuple[int, int] | None = None,
    convert: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Encoder:
    """Sizes and parameters of a published file.

    Args:
        tensors: by their published names.
        side: of the images, pixels; None takes as many as its patches cover.
        heads: of the image and the text tower; None takes the published ones of these widths.
        convert: casts each parameter.

    Raises:
        Misconfigured: a tensor that no dual encoder has, or one that is missing or of another shape.
    """
    ours = _renamed(tensors)
    biased = "logit_bias" in ours or "image.pool.probe" in ours
    scale, bias = _number(ours, "logit_scale"), _number(ours, "logit_bias") if biased else 0.0
    config = _sizes(ours, space, side, heads, scale, bias)
    image = _fitted(ours, "image.", shapes(ImageTower, config), convert)
    text = _fitted(ours, "text.", shapes(TextTower, config), convert)
    if ours:
        raise Misconfigured(f"{min(ours)[:100]} is left over: no {config.kind} encoder has it.")
    return Encoder(config, image, text)


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by our names, put together and turned."""
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.endswith(_CONSTANT):
            continue
        target = target_of(name)
        if target is None or not tensor.is_floating_point():
            raise Misconfigured(
                f"{name[:100]!r} ({str(tensor.dtype).removeprefix('torch.')}) is no parameter of SigLIP (of a fixed "
                "resolution) or CLIP as transformers, open_clip and OpenAI publish them."
            )
        turned = target.endswith("'")
        target, _, place = target.removesuffix("'").partition("#")
        if int(place or 0) in parts.setdefault(target, {}):
            raise Misconfigured(f"{name[:100]} is there under two names.")
        parts[target][int(place or 0)] = tensor.T if turned else tensor
    try:
        ours = {name: joined(found) for name, found in parts.items()}
    except RuntimeError:
        raise Misconfigured("its query, key and value do not go together: their shapes differ.") from None
    for kind in ("weight", "bias"):
        whole = ours.pop(f"image.pool.in.{kind}", None)
        if whole is not None:
            width = len(whole) // 3
            ours[f"image.pool.query.{kind}"], ours[f"image.pool.key_value.{kind}"] = whole[:width], whole[width:]
    return ours


def _sizes(
    ours: Mapping[str, Tensor], space: str, side: int | None, heads: tuple[int, int] | None, scale: float, bias: float
) -> DualConfig:
    clip = "image.class_token" in ours
    kind: Kind = "clip" if clip else "siglip"
    patch = _shape(ours, "image.patches.weight", 4)[-1]
    places = math.prod(_shape(ours, "image.positions")[:-1]) - clip
    image, text = (_tower(ours, name, heads and heads[place]) for place, name in enumerate(("image", "text")))
    vocabulary, length = _shape(ours, "text.tokens", 2)[0], _shape(ours, "text.positions", 2)[0]
    grid = math.isqrt(max(places, 0))
    side = grid * patch if side is None else side
    if grid**2 != places or side // max(patch, 1) != grid:
        raise Misconfigured(
            f"its {places} patches of {patch} pixels are not those of an image of {side} by {side} pixels."
        )
    dimensions = _shape(ours, "text.head.weight", 2)[0]
    config = DualConfig(kind, space, side, patch, image, text, vocabulary, length, dimensions, scale, bias)
    return from_json(kind, to_json(config))  # with its bounds checked


def _tower(ours: Mapping[str, Tensor], name: str, heads: int | None) -> TowerConfig:
    width = _shape(ours, f"{name}.norm.weight", 1)[0]
    hidden = _shape(ours, f"{name}.blocks.0.mixer.up.weight", 2)[0]
    layers = 1 + max(int(key.split(".")[2]) for key in ours if key.startswith(f"{name}.blocks."))
    return TowerConfig(width, hidden, layers, heads or _HEADS.get(width) or max(1, width // 64))


def _shape(ours: Mapping[str, Tensor], name: str, dims: int = 0) -> tuple[int, ...]:
    if name not in ours:
        raise Misconfigured(f"{name} is missing: this is not the whole of SigLIP (of a fixed resolution) or CLIP.")
    shape = tuple(ours[name].shape)
    if len(shape) < 1 or dims not in (0, len(shape)):
        raise Misconfigured(f"{name} has the shape {shape}.")
    return shape


def _number(ours: dict[str, Tensor], name: str) -> float:
    """A single number, which is then no longer among the tensors."""
    if name not in ours:
        raise Misconfigured(f"{name} is missing: this is not the whole of SigLIP or CLIP.")
    if (tensor := ours.pop(name)).numel() != 1:
        raise Misconfigured(f"{name} has the shape {tuple(tensor.shape)}, and should be one number.")
    return float(tensor.float())


def _fitted(
    ours: dict[str, Tensor], prefix: str, wanted: Mapping[str, tuple[int, ...]], convert: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    fitted = {}
    for name, shape in wanted.items():
        _shape(ours, prefix + name)
        found = ours.pop(prefix + name)
        if [size for size in found.shape if size != 1] != [size for size in shape if size != 1]:
            raise Misconfigured(f"{prefix}{name} has the shape {tuple(found.shape)}, and should have {shape}.")
        fitted[name] = convert(found.reshape(shape))
    return fitted
