"""Other layers in the place of some of a model's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def replace_layers(module: nn.Module, replacement: Callable[[str, nn.Module], nn.Module | None]) -> None:
    """Ask for another in the place of every layer below a module. In place.

    Args:
        replacement: of a layer and its attribute's name; the layer itself: it stays, with all that is below it; None:
            what is below it is asked for.
    """
    for name, child in list(module.named_children()):
        other = replacement(name, child)
        if other is None:
            replace_layers(child, replacement)
        else:
            setattr(module, name, other)


def own_parameters(module: nn.Module) -> None:
    """Copy the parameters of a model most of whose weights were laid out anew.

    They come mapped from their file. A single one that still is keeps all of the file that was read in memory.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()
