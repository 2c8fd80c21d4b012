"""What is counted once records are committed."""

from __future__ import annotations

from typing import get_args

from schemas.dead_letter import REASONS, REASONS_OF
from schemas.enriched_image import SkipReason
from tests.support.manual_pipeline import ManualPipeline
from tests.support.measured import measuring
from workers import metrics


def test_every_kind_of_outcome_is_shown_before_the_first() -> None:
    """An alert asks for the increase of dead letters, which the first of them is only after a zero."""
    with measuring(metrics.OUTCOMES) as measured:
        ManualPipeline()
        kinds = ("enriched", "partial", "retraction", "skip", "dead-letter")
        assert measured.by("kind", metrics.OUTCOMES) == dict.fromkeys(kinds, 0)


def test_every_reason_is_shown_before_the_first_dead_letter_or_skip_for_it() -> None:
    with measuring(metrics.DEAD_LETTERS, metrics.SKIPS) as measured:
        ManualPipeline()
        assert measured.by("reason", metrics.DEAD_LETTERS) == dict.fromkeys(REASONS, 0)
        for stage, reasons in REASONS_OF.items():
            assert measured.by("reason", metrics.DEAD_LETTERS, stage=stage) == dict.fromkeys(reasons, 0)
        assert measured.by("reason", metrics.SKIPS) == dict.fromkeys(get_args(SkipReason), 0)
