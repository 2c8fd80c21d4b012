"""Starting weights: random, a Swin checkpoint, or a bundle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tagstream_train.data.samples import places
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.ram.alignment import TEMPERATURE
from workers.models.ram.config import AnyConfig, SwinConfig, Tag2TextConfig
from workers.models.ram.importer import read_checkpoint
from workers.models.ram.keys import translate_encoder
from workers.models.ram.networks import LabelScorer, Tag2Text, empty_model, filled_model
from workers.models.ram.sizes import resampled, window_of
from workers.models.ram.swin import PATCH

_BERT = 0.02
"""Standard deviation of a fresh weight of a transformer."""
_BERT_WIDTH = 768
"""Channels of the models with this deviation."""
_TABLE = ".attention.bias_table"


def fresh(config: AnyConfig, *, seed: int) -> LabelScorer:
    """A randomly initialised model, reproducible by seed.

    The distributions come from the official programs. In an encoder or head narrower than BERT they are widened to keep
    the signals' scale; otherwise a small model starts to learn slowly. RAM and RAM++ need given label embeddings; here
    they get random directions, which only distinguish labels.
    """
    return trainable(config, drawn_like(empty_model(config), config, seed))


def drawn_like(module: nn.Module, config: AnyConfig, seed: int) -> dict[str, Tensor]:
    """As `fresh`, the tensors of any module of a model."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    return {name: _drawn(name, shape, config, generator) for name, shape in shapes.items()}


def trainable(config: AnyConfig, weights: Mapping[str, Tensor]) -> LabelScorer:
    """The model around these tensors, in fp32 and in training mode."""
    model = filled_model(config, {name: tensor.float().clone() for name, tensor in weights.items()})
    return model.requires_grad_(True).train()


def at_size(model: LabelScorer, config: AnyConfig, image_size: int) -> tuple[LabelScorer, AnyConfig]:
    """Copy the model for another image size.

    Raises:
        Misconfigured: its grids don't fit windows of any side then.
    """
    resized = replace(config, encoder=scaled(config.encoder, image_size))
    return trainable(resized, _with_biases(model.state_dict(), empty_model(resized).state_dict())), resized


def scaled(encoder: SwinConfig, image_size: int) -> SwinConfig:
    """The encoder's sizes for images of another side.

    Raises:
        Misconfigured: as `check_grids`, or windows would have a broken number of tokens.
    """
    window, rest = divmod(encoder.window * image_size, encoder.image_size)
    if rest:
        raise Misconfigured(
            f"An encoder with windows of {encoder.window} tokens for images of {encoder.image_size} pixels can't go "
            f"to {image_size}: its windows would have {encoder.window * image_size / encoder.image_size:g} tokens."
        )
    found = replace(encoder, image_size=image_size, window=window)
    check_grids(found)
    return found


def check_grids(encoder: SwinConfig) -> None:
    """Check that windows tile each stage's grid of tokens.

    Raises:
        Misconfigured: it can't.
    """
    if len(encoder.depths) != len(encoder.heads):
        raise Misconfigured(f"{len(encoder.depths)} depths for {len(encoder.heads)} numbers of heads.")
    for stage, heads in enumerate(encoder.heads):
        grid, rest = divmod(encoder.image_size, PATCH << stage)
        if rest or (grid > encoder.window and grid % encoder.window):
            raise Misconfigured(
                f"Images of {encoder.image_size} pixels give stage {stage} a grid of "
                f"{encoder.image_size / (PATCH << stage):g} tokens a side, "
                f"which windows of {encoder.window} don't tile."
            )
        if (encoder.width << stage) % heads:
            raise Misconfigured(f"Stage {stage} has {encoder.width << stage} channels for {heads} heads.")


def load_encoder(model: LabelScorer, checkpoint: Path) -> None:
    """Load an official Swin checkpoint's (.pth) weights into the encoder.

    Raises:
        Misconfigured: the file can't be read, or is of another size.
    """
    own = model.encoder.state_dict()
    try:
        given = _with_biases(translate_encoder(read_checkpoint(checkpoint)), own)
        model.encoder.load_state_dict({name: tensor.float() for name, tensor in given.items()})
    except Misconfigured as error:
        raise Misconfigured(f"{checkpoint}: {error}") from None
    except RuntimeError as error:
        _, first, *_ = str(error).splitlines()
        raise Misconfigured(f"{checkpoint} is a Swin transformer of another size: {first.strip()[:300]}") from None


def load_bundle(model: LabelScorer, bundle: Bundle, labels: Sequence[str]) -> list[str]:
    """Load matching weights of a bundle, label by label.

    Returns:
        Names of unchanged parameters that the bundle lacks, and of labels as `label …`.

    Raises:
        Misconfigured: its image encoder has another size.
    """
    own = model.state_dict()
    given = _with_biases(bundle.weights(), own)
    by_label = _BY_LABEL if isinstance(model, Tag2Text) else _BY_LABEL[:1]
    missing = [name for name in own if name not in by_label and _differs(given.get(name), own[name])]
    if encoder := [name for name in missing if name.startswith("encoder.")]:
        raise Misconfigured(
            f"{bundle.folder} has an image encoder of another size ({encoder[0]} differs): take its sizes, or start "
            "without it."
        )
    with torch.no_grad():
        for name in own.keys() - set(by_label) - set(missing):
            own[name].copy_(given[name])
        for name in by_label:
            missing += _take_rows(name, own[name], given.get(name), labels, bundle.labels)
    return sorted(set(missing))


_BY_LABEL = ("label_embed", "class_weight", "class_bias")
"""Parameters with a row for each label; RAM and RAM++ have only the first."""


def _take_rows(name: str, own: Tensor, given: Tensor | None, labels: Sequence[str], known: Sequence[str]) -> list[str]:
    """Copy the rows of shared labels; returns missing labels, or the name of a missing parameter."""
    rows = own.view(len(labels), -1)
    if given is None or given.numel() != rows.shape[1] * len(known):
        return [name]
    theirs = given.reshape(len(known), -1)
    theirs_at = places(known)
    for row, label in enumerate(labels):
        if label in theirs_at:
            rows[row] = theirs[theirs_at[label]]
    return [f"label {label}" for label in labels if label not in theirs_at]


def _with_biases(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Resample relative position biases to the wanted window sizes."""
    return {
        name: _resampled(tensor, wanted[name]) if name.endswith(_TABLE) and name in wanted else tensor
        for name, tensor in weights.items()
    }


def _resampled(table: Tensor, wanted: Tensor) -> Tensor:
    window = window_of(wanted)
    return table if window is None or table.dim() != 2 or window_of(table) is None else resampled(table, window)


def _differs(given: Tensor | None, own: Tensor) -> bool:
    return given is None or given.shape != own.shape


def _drawn(name: str, shape: torch.Size, config: AnyConfig, generator: torch.Generator) -> Tensor:
    if name == "log_scale":
        return torch.tensor(math.log(1 / 0.07))
    if name == "temperature":
        return torch.tensor(TEMPERATURE)
    if name == "label_embed":
        drawn = torch.randn(shape, generator=generator)
        return drawn if isinstance(config, Tag2TextConfig) else torch.nn.functional.normalize(drawn, dim=-1)
    if "norm" in name and name.endswith("weight"):
        return torch.ones(shape)
    if name.endswith("bias"):
        return torch.zeros(shape)
    if name.startswith(("class_", "label_proj", "image_proj", "encoder.patches.project")):
        bound = math.sqrt(3) if name.startswith("label_proj") and _is_narrow(name, config) else _kaiming(shape)
        return torch.empty(shape).uniform_(-bound, bound, generator=generator)
    wider = math.sqrt(_BERT_WIDTH / math.prod(shape[1:])) if _is_narrow(name, config) else 1
    return torch.empty(shape).normal_(0, _BERT * wider, generator=generator)


def _kaiming(shape: torch.Size) -> float:
    return 1 / math.sqrt(math.prod(shape[1:]))


def _is_narrow(name: str, config: AnyConfig) -> bool:
    """Whether the parameter's part of the model is narrower than BERT."""
    return (config.encoder.width_out if name.startswith("encoder.") else config.head.width) < _BERT_WIDTH
