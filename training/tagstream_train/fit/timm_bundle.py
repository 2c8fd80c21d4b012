"""Bundles of timm's own networks, for `train fit timm:NAME`."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.device import choose_device
from workers.models.files import reading_safetensors
from workers.models.labels import label_names, label_parents
from workers.models.manifest import Manifest, Provenance
from workers.models.tagger import golden_answers
from workers.models.timm_network import KIND, build_tagger, create, fill, timm_library
from workers.types import Transform

THRESHOLD = 0.15
FLOOR = 0.01


def classifier_name(bundle: Bundle) -> str:
    """The name of the network's linear classifier among its parameters.

    Raises:
        Misconfigured: timm is not installed, or the network has another classifier.
    """
    known = timm_library().get_pretrained_cfg(str(bundle.manifest.architecture.get("timm")))
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
    network = create(name, pretrained=weights is None)
    if weights is not None:
        with reading_safetensors(weights):
            fill(network, load_file(weights), weights)
    data = timm_library().data.resolve_model_data_config(network)
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
