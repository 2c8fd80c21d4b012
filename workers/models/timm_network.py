"""Classifiers of timm as taggers: bundles of the kind `timm`. Needs the extra `timm`.

The bundle's `architecture` names the network as timm knows it. Its labels exclude each other, unless the option
`exclusive` is false: `tagstream train fit` makes such bundles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workers.errors import Misconfigured, nearest, not_installed
from workers.models.added import columns_of, keep_labels, parted, rooted
from workers.models.bundle import Bundle
from workers.models.device import Device, Precision
from workers.models.execution import leave_triton_out
from workers.models.tagger import TorchTagger

KIND = "timm"


def build_tagger(
    bundle: Bundle, device: Device, precision: Precision, subset: Sequence[int] | None = None
) -> TorchTagger:
    """The tagger of such a bundle.

    Raises Misconfigured: timm is not installed or does not know the network, or the weights do not fit.
    """
    exclusive = bool(bundle.manifest.options.get("exclusive", True))
    columns = columns_of(bundle, exclusive=exclusive, subset=subset)
    own, added = parted(bundle.weights(), columns)
    network = network_of(bundle, own, columns.own)
    if len(columns.own_ids) < columns.own:
        keep_labels(network.get_classifier(), columns.own_ids)
    whole = device.place(_Extended(network, added, columns.own_rooted), precision)
    return TorchTagger(bundle, device, precision, whole, columns=columns, features=whole.features, subset=subset)


class _Extended(nn.Module):
    """A network with added labels' logits, if any, behind its own."""

    def __init__(self, network: Any, added: nn.Linear | None, own_rooted: bool) -> None:
        super().__init__()
        self.network, self.added, self._own_rooted = network, added, own_rooted

    def features(self, x: Tensor) -> Tensor:
        """The classifier's input: (n, width)."""
        return features_of(self.network, x)

    def forward(self, x: Tensor) -> Tensor:
        if self.added is None and not self._own_rooted:
            logits: Tensor = self.network(x)
            return logits
        features = self.features(x)
        logits = self.network.get_classifier()(rooted(features) if self._own_rooted else features)
        return logits if self.added is None else torch.cat((logits, self.added(features)), dim=1)


def features_of(network: Any, x: Tensor) -> Tensor:
    """The input of a timm network's classifier: (n, width)."""
    features: Tensor = network.forward_head(network.forward_features(x), pre_logits=True)
    return features


def network_of(bundle: Bundle, weights: Mapping[str, Tensor], labels: int) -> Any:
    """The network of a bundle, with its own weights and labels."""
    network = create(str(bundle.manifest.architecture.get("timm")), num_classes=labels)
    fill(network, weights, bundle.folder)
    return network


def timm_library() -> Any:
    """The package. Raises Misconfigured: it is not installed."""
    leave_triton_out()
    try:
        import timm
    except ModuleNotFoundError:
        raise not_installed("timm") from None
    return timm


def create(name: str, **options: Any) -> Any:
    """A network by its name. Raises Misconfigured: timm can't make it."""
    timm = timm_library()
    known = name.partition(".")[0]
    if not timm.is_model(known):
        raise Misconfigured(f"timm knows no network {known!r}.{nearest(known, timm.list_models())}")
    try:
        return timm.create_model(name, **options)
    except (OSError, RuntimeError, ValueError) as error:  # no such weights, or no way to them
        raise Misconfigured(f"{name} can't be made: {str(error).strip().splitlines()[-1]}") from None


def fill(network: Any, weights: Mapping[str, Tensor], where: Path) -> None:
    """Put its weights into a network. Raises Misconfigured: they are of another."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise Misconfigured(f"{where}: the weights do not fit the architecture: {detail}") from None
