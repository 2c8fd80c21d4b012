"""A tagger of four labels: a linear layer on the mean colours of an image's quarters. Builds itself as a kind."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from workers.models.bundle import Bundle
from workers.models.device import Device, Precision, choose_device
from workers.models.manifest import Manifest, Provenance
from workers.models.tagger import TorchTagger, golden_answers
from workers.types import Transform

LABELS = ("red", "green", "blue", "grey ")
SIDE = 8


class Quarters(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(12, len(weight))
        self.linear.weight = nn.Parameter(weight)
        self.linear.bias = nn.Parameter(torch.zeros(len(weight)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(F.avg_pool2d(x, SIDE // 2).flatten(1))
        return logits


def tiny_manifest(**changes: object) -> Manifest:
    fields: dict[str, object] = {
        "kind": "tiny",
        "name": "tiny",
        "provenance": Provenance(source="a seed"),
        "transform": Transform(size=SIDE),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
        "thresholds": (0.5, 0.6, 0.7, 1.0),
        "profiles": {"strict": 0.9},
        "floor": 0.1,
    }
    return Manifest.model_validate(fields | changes)


def tiny_weights() -> dict[str, Tensor]:
    return {"weight": torch.randn(len(LABELS), 12, generator=torch.Generator().manual_seed(7))}


def tiny_bundle(folder: Path, **changes: object) -> Bundle:
    return Bundle.write(
        folder,
        tiny_manifest(**changes),
        weights=tiny_weights(),
        labels=LABELS,
        translations={"de": ("rot", "grün", "blau", "grau ")},
        parents=(("warm colour", "colour"), (), (), ("colour",)),
        golden=lambda bundle: golden_answers(build_tagger(bundle, choose_device("cpu"), "fp32")),
    )


def build_tagger(
    bundle: Bundle, device: Device, precision: Precision, subset: Sequence[int] | None = None
) -> TorchTagger:
    weight = bundle.weights()["weight"]
    network = Quarters(weight if subset is None else weight[list(subset)])
    return TorchTagger(bundle, device, precision, device.place(network, precision), subset=subset)
