"""Maps all tensor names of the published checkpoints to ours.

Each name of a checkpoint is either loaded into one of our parameters or dropped for a reason that `Plan.dropped`
names; each of our parameters is filled. Anything else is an error: a silent mismatch would give wrong tags.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from workers.errors import Misconfigured
from workers.models.ram.config import AnyConfig, Kind, RamConfig, RamPlusConfig, Tag2TextConfig
from workers.models.ram.networks import empty_model

CONSTANT = "constant, computed from the sizes"
TIED = "the same tensor as {}"
UNUSED = "captioning branch, not needed for tagging"


class Target(NamedTuple):
    """Where a checkpoint's tensor goes: our parameter, and which of its equal row blocks."""

    name: str
    block: int = 0
    blocks: int = 1


@dataclass(slots=True)
class Plan:
    """The fate of each name of a checkpoint.

    Args:
        loaded: official name → our parameter.
        dropped: official name → why it is not needed.
        tied: official name → official name of the tensor it repeats (all of them are in `dropped` too).
    """

    loaded: dict[str, Target] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)


_PARTS = {
    "crossattention.self.query": "query",
    "crossattention.self.key": "key",
    "crossattention.self.value": "value",
    "crossattention.output.dense": "out",
    "crossattention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "mlp_norm",
}
_SELF_PARTS = {"output.dense": "out", "output.LayerNorm": "norm"}
_PROJECTIONS = ("query", "key", "value")
_EMBEDDINGS = {
    "word_embeddings.weight": "word.weight",
    "position_embeddings.weight": "position.weight",
    "LayerNorm.weight": "norm.weight",
    "LayerNorm.bias": "norm.bias",
}
_BLOCK_PARTS = {
    "norm1": "attention_norm",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.out",
    "norm2": "mlp_norm",
    "mlp.fc1": "up",
    "mlp.fc2": "down",
}
_PREDICTIONS = {
    "bias": "bias",
    "transform.dense.weight": "transform.weight",
    "transform.dense.bias": "transform.bias",
    "transform.LayerNorm.weight": "transform_norm.weight",
    "transform.LayerNorm.bias": "transform_norm.bias",
}
TOP: dict[type[AnyConfig], dict[str, str]] = {
    RamConfig: {
        "label_embed": "label_embed",
        **{f"image_proj.{p}": f"image_proj.{p}" for p in ("weight", "bias")},
        **{f"wordvec_proj.{p}": f"label_proj.{p}" for p in ("weight", "bias")},
        **{f"fc.{p}": f"class_{p}" for p in ("weight", "bias")},
    },
    Tag2TextConfig: {"label_embed.weight": "label_embed", "fc.W": "class_weight", "fc.b": "class_bias"},
}
TOP[RamPlusConfig] = {**TOP[RamConfig], "reweight_scale": "log_scale"}
"""Official name → ours, where the kinds differ."""
MARKS: dict[str, Kind] = {"fc.W": "tag2text", "reweight_scale": "ram_plus", "fc.weight": "ram"}
"""Name → kind; the first that a checkpoint has decides."""

_CONSTANTS = re.compile(r".*\.(relative_position_index|attn_mask|position_ids)")
_LM = "text_decoder.cls.predictions."
_WORDS = "text_decoder.bert.embeddings.word_embeddings.weight"


def kind_in(names: Collection[str]) -> Kind | None:
    """The kind of a checkpoint, by its names."""
    return next((kind for mark, kind in MARKS.items() if mark in names), None)


def plan(names: Collection[str], config: AnyConfig) -> Plan:
    """Account for every name of a checkpoint.

    Args:
        names: the checkpoint's names; the old name `vision_multi` of the tag head is understood.
        config: the model to fill. RAM without `text` leaves the captioning branch out.

    Raises:
        Misconfigured: names that no rule knows (another model's file, most likely).
    """
    found = Plan()
    unknown = [name for name in names if not _place(name, config, found)]
    if unknown:
        raise Misconfigured(
            f"this checkpoint has {len(unknown)} tensors that the model does not know, e.g. "
            f"{', '.join(sorted(unknown)[:3])}; is it the file of another model?"
        )
    return found


def translate(
    checkpoint: Mapping[str, Tensor], config: AnyConfig, convert: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> dict[str, Tensor]:
    """A checkpoint's tensors under our names, complete and of the right shapes.

    Args:
        checkpoint: official name → tensor (may be memory-mapped; each is touched once).
        convert: applied to each tensor that is kept, to change its dtype, say.

    Raises:
        Misconfigured: an unknown or missing name, another shape, or tied tensors that differ.
    """
    found = plan(checkpoint.keys(), config)
    _check_ties(checkpoint, found)
    shapes = {name: tensor.shape for name, tensor in empty_model(config).state_dict().items()}
    pieces: dict[str, dict[int, Tensor]] = {}
    for official, target in found.loaded.items():
        piece = _shaped(official, checkpoint[official], target, shapes[target.name])
        pieces.setdefault(target.name, {})[target.block] = convert(piece)
    _check_complete(shapes, pieces, found)
    return {name: joined(blocks) for name, blocks in pieces.items()}


def translate_encoder(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official Swin transformer's tensors under our encoder's names.

    Shapes stay; the classifier is left out. Raises Misconfigured: a name that no rule knows.
    """
    found = {}
    for name, tensor in checkpoint.items():
        if _CONSTANTS.fullmatch(name) or name.startswith("head."):
            continue
        target = _encoder_target(name)
        if target is None:
            raise Misconfigured(f"a tensor {name[:100]!r}, which no official Swin transformer has.")
        found[target.name.removeprefix("encoder.")] = tensor
    return found


def _place(name: str, config: AnyConfig, found: Plan) -> bool:
    current = name.replace("vision_multi", "tagging_head")
    if _CONSTANTS.fullmatch(current):
        found.dropped[name] = CONSTANT
        return True
    if current.startswith(("tag_encoder.", "text_decoder.")):
        return _place_text(name, current, config, found)
    target = _tagging_target(current, config)
    if target is None or target in found.loaded.values():
        return False
    found.loaded[name] = target
    return True


def _place_text(name: str, current: str, config: AnyConfig, found: Plan) -> bool:
    if not hasattr(config, "text"):
        return False
    tie = _tie(current, config.head.layers)
    target = _text_target(current, config.head.layers)
    if tie is None and target is None:
        return False
    if config.text is None:
        found.dropped[name] = UNUSED
    elif tie is not None:
        found.dropped[name] = TIED.format(tie)
        found.tied[name] = tie
    elif target is not None:
        found.loaded[name] = target
    return True


def _tagging_target(name: str, config: AnyConfig) -> Target | None:
    top = TOP[type(config)].get(name)
    if top is not None:
        return Target(top)
    if match := re.fullmatch(r"tagging_head\.encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name):
        layer, part, kind = match.groups()
        return Target(f"head.layers.{layer}.{_PARTS[part]}.{kind}") if part in _PARTS else None
    return _encoder_target(name.removeprefix("visual_encoder.")) if name.startswith("visual_encoder.") else None


def _encoder_target(name: str) -> Target | None:
    if match := re.fullmatch(r"patch_embed\.(proj|norm)\.(weight|bias)", name):
        return Target(f"encoder.patches.{'project' if match[1] == 'proj' else 'norm'}.{match[2]}")
    if match := re.fullmatch(r"norm\.(weight|bias)", name):
        return Target(f"encoder.norm.{match[1]}")
    if match := re.fullmatch(r"layers\.(\d+)\.downsample\.(norm\.weight|norm\.bias|reduction\.weight)", name):
        return Target(f"encoder.stages.{match[1]}.merge.{match[2].replace('reduction', 'reduce')}")
    if match := re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.(.+)", name):
        block = f"encoder.stages.{match[1]}.blocks.{match[2]}"
        if match[3] == "attn.relative_position_bias_table":
            return Target(f"{block}.attention.bias_table")
        part, _, kind = match[3].rpartition(".")
        return Target(f"{block}.{_BLOCK_PARTS[part]}.{kind}") if part in _BLOCK_PARTS else None
    return None


def _text_target(name: str, shared: int) -> Target | None:
    ours, encoder = ("text.tag_encoder", True) if name.startswith("tag_encoder.") else ("text.decoder", False)
    rest = name.removeprefix("tag_encoder." if encoder else "text_decoder.bert.")
    if name.startswith(_LM):
        part = _PREDICTIONS.get(name.removeprefix(_LM))
        return Target(f"text.decoder.{part}") if part else None
    if rest.startswith("embeddings."):
        part = _EMBEDDINGS.get(rest.removeprefix("embeddings."))
        return Target(f"{ours}.embeddings.{part}") if part else None
    match = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", rest)
    if match is None:
        return None
    layer, part, kind = int(match[1]), match[2], match[3]
    if part.startswith("attention."):
        return _self_target(f"{ours}.attention.{layer}", part.removeprefix("attention."), kind)
    if part not in _PARTS:
        return None
    own = layer - shared if encoder else layer
    return Target(f"{ours}.cross.{own}.{_PARTS[part]}.{kind}") if own >= 0 else None


def _self_target(prefix: str, part: str, kind: str) -> Target | None:
    projection = part.removeprefix("self.")
    if projection in _PROJECTIONS:
        return Target(f"{prefix}.qkv.{kind}", _PROJECTIONS.index(projection), len(_PROJECTIONS))
    return Target(f"{prefix}.{_SELF_PARTS[part]}.{kind}") if part in _SELF_PARTS else None


def _tie(name: str, shared: int) -> str | None:
    """The official name of the tensor that this one repeats."""
    if name == f"{_LM}decoder.weight":
        return _WORDS
    if name == f"{_LM}decoder.bias":
        return f"{_LM}bias"
    match = re.fullmatch(r"tag_encoder\.(encoder\.layer\.(\d+)\.(?:crossattention|intermediate|output)\..+)", name)
    return f"tagging_head.{match[1]}" if match and int(match[2]) < shared else None


def _check_ties(checkpoint: Mapping[str, Tensor], found: Plan) -> None:
    old_names = {name.replace("vision_multi", "tagging_head"): name for name in checkpoint}
    for name, other in found.tied.items():
        if other in old_names and not torch.equal(checkpoint[name], checkpoint[old_names[other]]):
            raise Misconfigured(f"this checkpoint has two different tensors for {name} and {other}, which are tied.")


def _shaped(official: str, tensor: Tensor, target: Target, shape: torch.Size) -> Tensor:
    """The tensor in our shape; official ones may have leading axes of length 1 more."""
    wanted = torch.Size((shape[0] // target.blocks, *shape[1:])) if shape else shape
    given = tensor.shape
    while len(given) > len(wanted) and given[0] == 1:
        given = given[1:]
    if given != wanted:
        raise Misconfigured(
            f"{official} has the shape {tuple(tensor.shape)} where this model needs {tuple(wanted)}; "
            "is it a checkpoint of another size?"
        )
    return tensor.reshape(wanted)


def _check_complete(shapes: Mapping[str, torch.Size], pieces: Mapping[str, Mapping[int, Tensor]], found: Plan) -> None:
    blocks = {target.name: target.blocks for target in found.loaded.values()}
    missing = [name for name in shapes if len(pieces.get(name, ())) < blocks.get(name, 1)]
    if missing:
        raise Misconfigured(
            f"this checkpoint lacks {len(missing)} of the {len(shapes)} tensors of the model, e.g. "
            f"{', '.join(missing[:3])}; is it complete, and of this model?"
        )


def joined(blocks: Mapping[int, Tensor]) -> Tensor:
    """One tensor of its row blocks."""
    tensors = [blocks[place] for place in sorted(blocks)]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
