"""What is counted once records are committed."""

from __future__ import annotations

from tests.support.manual_pipeline import ManualPipeline
from tests.support.measured import measuring
from workers import metrics


def test_every_kind_of_outcome_is_shown_before_the_first() -> None:
    """An alert asks for the increase of dead letters, which the first of them is only after a zero."""
    with measuring(metrics.OUTCOMES) as measured:
        ManualPipeline()
        kinds = ("enriched", "partial", "retraction", "skip", "dead-letter")
        assert measured.by("kind", metrics.OUTCOMES) == dict.fromkeys(kinds, 0)
