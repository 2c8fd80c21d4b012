"""A model's scores of a set, with thresholds and metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tagstream_train.data.images import Images
from tagstream_train.data.loader import Batches, multi_hot
from tagstream_train.data.samples import Sample
from tagstream_train.metrics import Threshold, best_f1, choose, table
from workers.errors import Misconfigured
from workers.models.ram.config import AnyConfig
from workers.models.ram.importer import DEFAULT_THRESHOLD, MEAN, STD
from workers.models.ram.networks import LabelScorer

AT_MOST = 20_000
"""Images that are scored; of more, every second, third, … one."""
_BATCH = 32

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rated:
    """Scores, targets, and 0 for unknown targets."""

    scores: Floats
    targets: Floats
    weights: Floats

    def choose(self, least_positives: int) -> list[Threshold]:
        """Each label's best-F1 threshold; rare labels keep the default."""
        return choose(
            self.scores,
            self.targets,
            best_f1,
            weights=self.weights,
            least_positives=least_positives,
            otherwise=DEFAULT_THRESHOLD,
        )

    def metrics(self, thresholds: Sequence[Threshold]) -> dict[str, float | None]:
        """mAP, macro precision and recall at these thresholds, or None."""
        values = np.array([each.value for each in thresholds])
        mean = table(self.scores, self.targets, values, self.weights).mean()
        found = {"mAP": mean.map, "precision": mean.precision, "recall": mean.recall}
        return {name: None if math.isnan(value) else value for name, value in found.items()}


def rate_samples(
    model: LabelScorer,
    config: AnyConfig,
    samples: Sequence[Sample],
    images: Images,
    *,
    absent: Literal["unknown", "negative"],
    workers: int = 2,
) -> Rated:
    """Score images as a worker does, on the model's device.

    Raises:
        Misconfigured: not one image can be used.
    """
    chosen = samples[:: math.ceil(len(samples) / AT_MOST)]
    batches = Batches(
        chosen,
        side=config.encoder.image_size,
        mean=MEAN,
        std=STD,
        batch=_BATCH,
        images=images,
        workers=workers,
    )
    device = next(model.parameters()).device
    rows: list[tuple[Floats, ...]] = []
    with torch.no_grad():
        for batch in batches:
            scores = model.score(model.embed(model.encode(batch.images.to(device)))).sigmoid().cpu()
            targets, weights = multi_hot(batch.samples, model.labels, absent=absent)
            rows.append((scores.numpy(), targets.numpy(), weights.numpy()))
    if not rows:
        raise Misconfigured(f"None of {len(chosen):,} images can be read, so that no threshold can be chosen.")
    return Rated(*(np.concatenate(column) for column in zip(*rows, strict=True)))
