"""Builds a RAM, RAM++ or Tag2Text model from its configuration."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from workers.models.ram.config import AnyConfig, RamConfig, RamPlusConfig
from workers.models.ram.ram import Ram
from workers.models.ram.ram_plus import RamPlus
from workers.models.ram.scoring import LabelScorer
from workers.models.ram.tag2text import Tag2Text


def empty_model(config: AnyConfig) -> LabelScorer:
    """The model without storage for its parameters (on the meta device): quick, whatever its size."""
    with torch.device("meta"):
        if isinstance(config, RamConfig):
            return Ram(config)
        if isinstance(config, RamPlusConfig):
            return RamPlus(config)
        return Tag2Text(config)


def filled_model(config: AnyConfig, weights: Mapping[str, Tensor]) -> LabelScorer:
    """The model for inference around these tensors (taken over, not copied); not frozen yet.

    Raises:
        RuntimeError: a name or shape does not fit.
    """
    model = empty_model(config)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.requires_grad_(False).eval()
