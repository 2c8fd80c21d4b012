"""The options of `train fit` as one TOML file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt

from tagstream_train.adapt import What
from tagstream_train.plan import Plan

NAME = "run.toml"


class FitRun(BaseModel):
    """Model, data and options of a fit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: str
    """A training set, or annotations of any format that `train import` reads."""
    parent: str
    """A bundle's folder, "compact", or "timm:NAME" for a network of timm; with "@FILE" behind it, that has weights of
    your own (safetensors)."""
    what: What = "head"
    rank: int = Field(default=8, ge=1, le=1024)
    """The rank of LoRA's matrices."""
    absent: Literal["negative", "unknown"] = "negative"
    """What a label means that an image is not said to have."""
    guard: NonNegativeFloat = 3.0
    """Weight of the old model's answers, for labels that the bundle had; 0: none."""
    replay: str | None = None
    """A training set with old labels, mixed into every batch."""
    embeddings: str | None = None
    """Text embeddings of new labels by name, in a safetensors file; a label without one is learnt."""
    gamma: NonNegativeFloat = 2.0
    """How much less a negative counts the better it is known."""
    validation: float = Field(default=0.2, gt=0, lt=1)
    """Part of the images that is not trained on: thresholds are chosen and numbers measured there."""
    precision_floor: float | None = Field(default=None, gt=0, le=1)
    """The least precision of a tag that is shown; None: thresholds with the best F1."""
    least_positives: PositiveInt = 3
    """The least validation images that have a label; one with fewer gets no threshold of its own."""
    workers: int = Field(default=2, ge=0, le=64)
    """Threads that read and decode images."""
    plan: Plan
