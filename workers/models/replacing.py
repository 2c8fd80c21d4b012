"""Other layers in the place of some of a model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from workers.models.bundle import Bundle

SHARED_BYTES = 16 * 1024**2
"""A parameter of this size stays in the mapped file, where workers of one machine share its pages."""


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


def leave_file(module: nn.Module, bundle: Bundle, mapped: Mapping[str, Tensor]) -> None:
    """Let go of the weights' file that a model was read from, once most of its weights were laid out anew. In place.

    The file is mapped as one, and a single parameter that still lies in it keeps all of it that was read in memory. So
    small ones are copied, and large ones taken from the file again, where processes share them.

    Args:
        mapped: the parameters as they came from `bundle`, unchanged since.
    """
    names = {tensor.untyped_storage().data_ptr(): name for name, tensor in mapped.items()}
    again: dict[str, Tensor] = {}
    with torch.no_grad():
        for parameter in module.parameters():
            name = names.get(parameter.untyped_storage().data_ptr())
            if name is None:  # its own memory already
                continue
            if parameter.nbytes < SHARED_BYTES or parameter.shape != mapped[name].shape:
                parameter.data = parameter.data.clone()
            else:
                again = again or bundle.weights()
                parameter.data = again[name]
