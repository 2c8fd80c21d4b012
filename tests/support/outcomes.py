"""Outcomes of the pipeline as the models that a reader makes of them."""

from __future__ import annotations

from typing import TypeAlias

from schemas.dead_letter import Failure
from schemas.enriched_image import EnrichedImage, Retraction, Skip, read_output
from workers.types import Outcome

Told: TypeAlias = EnrichedImage | Retraction | Skip | Failure


def read(outcome: Outcome) -> Told:
    return outcome if isinstance(outcome, Failure) else read_output(outcome.value)
