"""A tagger that knows nothing and takes the time that it is told to take: a model of no cost, or of a known one.

It is copied into a folder of its own beside an entry point, as another team's package would be installed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workers.errors import Broken
from workers.models.bundle import Bundle
from workers.models.device import Device, Precision
from workers.types import LabelScores, Pixels, Transform

KIND = "simulated"
LABELS = ("thing",)
SIDE = 224
BATCH = 8


class SimulatedTagger:
    """Sleeps SIMULATED_S seconds for each image of a batch."""

    precision = "fp32"
    transform = Transform(SIDE)
    random_weights = False
    labels: Sequence[str] = LABELS
    translations: Mapping[str, Sequence[str]] = {}
    thresholds: Sequence[float] = (0.5,)
    profiles: Mapping[str, Sequence[float]] = {}
    floor = 0.0

    def __init__(self, bundle: Bundle) -> None:
        self.name = bundle.name
        self.digest = bundle.digest
        self.max_batch = BATCH
        self._image_s = float(os.environ.get("SIMULATED_S", "0"))

    def warm_up(self) -> None:
        """There is nothing to warm."""

    def self_test_image(self) -> Pixels:
        return np.zeros((SIDE, SIDE, 3), np.uint8)

    def check_self_test(self, answer: Any) -> None:
        if answer != 1.0:
            raise Broken(f"{self.name} does not give its right answer.")

    def forward(self, images: Sequence[Pixels]) -> Sequence[Any]:
        if self._image_s:
            time.sleep(self._image_s * len(images))
        return [1.0] * len(images)

    def postprocess(self, raw: Any) -> LabelScores:
        return LabelScores(np.zeros(1, np.int32), np.full(1, raw, np.float32))


def build_tagger(
    bundle: Bundle, device: Device, precision: Precision, subset: Sequence[int] | None = None
) -> SimulatedTagger:
    """As the entry point's group asks for."""
    return SimulatedTagger(bundle)
