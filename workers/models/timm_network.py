"""Classifiers of timm as taggers: bundles of the kind `timm`. Needs the extra `timm`.

The bundle's `architecture` names the network as timm knows it. Its labels exclude each other, unless the option
`exclusive` is false: `tagstream train fit` makes such bundles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from workers.errors import Misconfigured, nearest, not_installed
from workers.models.added import columns_of, parted, rooted
from workers.models.bundle import Bundle
from workers.models.device import Device, Precision, choose_device
from workers.models.execution import leave_triton_out
from workers.models.files import reading_safetensors
from workers.models.labels import label_names, label_parents
from workers.models.manifest import Manifest, Provenance
from workers.models.tagger import TorchTagger, golden_answers
from workers.types import Transform

KIND = "timm"
THRESHOLD = 0.15
FLOOR = 0.01


def build_tagger(
    bundle: Bundle, device: Device, precision: Precision, subset: Sequence[int] | None = None
) -> TorchTagger:
    """The tagger of such a bundle.

    Raises:
        Misconfigured: timm is not installed or does not know the network, or the weights do not fit.
    """
    exclusive = bool(bundle.manifest.options.get("exclusive", True))
    columns = columns_of(bundle, exclusive=exclusive, subset=subset)
    own, added = parted(bundle.weights(), columns)
    network = network_of(bundle, own, columns.own)
    if len(columns.own_ids) < columns.own:
        _keep(network, columns.own_ids)
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
    """The network of a bundle, with its own weights and labels.

    Raises:
        As `build_tagger`.
    """
    network = _create(str(bundle.manifest.architecture.get("timm")), num_classes=labels)
    _fill(network, weights, bundle.folder)
    return network


def classifier_name(bundle: Bundle) -> str:
    """The name of the network's linear classifier among its parameters.

    Raises:
        Misconfigured: timm is not installed, or the network has another classifier.
    """
    known = _timm().get_pretrained_cfg(str(bundle.manifest.architecture.get("timm")))
    name = getattr(known, "classifier", None)
    if not isinstance(name, str):
        raise Misconfigured(f"{bundle.name} has no linear classifier; choose another network.")
    return name


def make_bundle(name: str, out: Path, weights: Path | None = None) -> Bundle:
    """Write a bundle of a network of timm.

    Args:
        name: as timm knows it, e.g. `vit_small_patch16_224.augreg_in21k_ft_in1k`.
        weights: a safetensors file of its parameters; None: timm fetches its pretrained ones.

    Raises:
        Misconfigured: timm is not installed or does not know the network, or the weights do not fit.
    """
    network = _create(name, pretrained=weights is None)
    if weights is not None:
        with reading_safetensors(weights):
            _fill(network, load_file(weights), weights)
    data = _timm().data.resolve_model_data_config(network)
    side = data["input_size"][-1]
    labels = network.num_classes
    manifest = Manifest(
        kind=KIND,
        name=name,
        provenance=Provenance(source=f"timm {name}", licence=network.pretrained_cfg.get("license")),
        transform=Transform(side, "crop", round(side / data["crop_pct"]), data["interpolation"]),
        mean=data["mean"],
        std=data["std"],
        thresholds=THRESHOLD,
        floor=FLOOR,
        architecture={"timm": network.pretrained_cfg["architecture"]},
    )
    return Bundle.write(
        out,
        manifest,
        weights=network.state_dict(),
        labels=label_names() if labels == 1000 else [f"class {number}" for number in range(labels)],
        parents=label_parents() if labels == 1000 else (),
        golden=lambda bundle: golden_answers(build_tagger(bundle, choose_device("cpu"), "fp32")),
    )


def _timm() -> Any:
    leave_triton_out()
    try:
        import timm
    except ModuleNotFoundError:
        raise not_installed("timm") from None
    return timm


def _create(name: str, **options: Any) -> Any:
    timm = _timm()
    known = name.partition(".")[0]
    if not timm.is_model(known):
        raise Misconfigured(f"timm knows no network {known!r}.{nearest(known, timm.list_models())}")
    try:
        return timm.create_model(name, **options)
    except (OSError, RuntimeError, ValueError) as error:  # no such weights, or no way to them
        raise Misconfigured(f"{name} can't be made: {str(error).strip().splitlines()[-1]}") from None


def _fill(network: Any, weights: Mapping[str, Tensor], where: Path) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise Misconfigured(f"{where}: the weights do not fit the architecture: {detail}") from None


def _keep(network: Any, ids: list[int]) -> None:
    """Compute the logits of these labels alone from now on."""
    classifier = network.get_classifier()
    if type(classifier) is not nn.Linear:
        raise Misconfigured("this network's classifier is not linear: it can't score some labels alone.")
    weight, bias = classifier.weight[ids], classifier.bias[ids]
    classifier.weight, classifier.bias = nn.Parameter(weight), nn.Parameter(bias)
    classifier.out_features = len(ids)
