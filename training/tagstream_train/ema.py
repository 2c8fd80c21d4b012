"""A moving average of the weights, which is often better than the last weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class Ema:
    """Averages the trained parameters of a model in place of their last values.

    After step n the average keeps min(decay, (1 + n) / (10 + n)) of itself, so that the first weights of a short run
    do not stay in it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._decay = decay
        self.averages: dict[str, Tensor] = {name: tensor.clone() for name, tensor in _trained(model)}

    def update(self, step: int) -> None:
        """After a step, counted from 0."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        for name, tensor in _trained(self._model):
            self.averages[name].lerp_(tensor, share)

    def restore(self, averages: dict[str, Tensor]) -> None:
        """Go on with what a checkpoint has of `averages`."""
        for name, tensor in averages.items():
            self.averages[name].copy_(tensor)

    def settle(self) -> None:
        """Put the averages into the model for good."""
        for name, tensor in _trained(self._model):
            tensor.copy_(self.averages[name])

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within it the model has the averages."""
        kept = {name: tensor.clone() for name, tensor in _trained(self._model)}
        self.settle()
        try:
            yield
        finally:
            for name, tensor in _trained(self._model):
                tensor.copy_(kept[name])


def _trained(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter.detach()
