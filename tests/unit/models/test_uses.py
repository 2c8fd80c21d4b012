"""What a model is used as: the same words in the event, the settings, the models' side and the pipeline's."""

from __future__ import annotations

import pytest

from schemas import enriched_image
from tests.support.harness import EchoCaptioner
from tests.unit.models.tiny import build_tagger
from workers.models.bundle import Bundle
from workers.models.device import choose_device
from workers.models.uses import USES
from workers.pipeline.roles import ModelsByUse
from workers.settings import FIELDS, PinnedBundle, Settings


def test_every_use_is_known_to_all_that_go_over_uses() -> None:
    assert tuple(USES) == tuple(ModelsByUse.__annotations__) == enriched_image.USES
    for use in USES:
        assert use in FIELDS


def test_what_is_named_in_the_place_of_a_bundle_is_none() -> None:
    compact = PinnedBundle("compact", "")
    assert Settings().bundles() == {"tagger": compact}
    assert Settings(captioner="none").bundles() == {"tagger": compact}
    pinned = Settings(captioner=f"bundles/tag2text@sha256:{'a' * 64}")
    assert pinned.bundles() == {"tagger": compact, "captioner": PinnedBundle("bundles/tag2text", "a" * 64)}


@pytest.mark.parametrize("images", [1, 3])
def test_a_trial_runs_one_batch(tiny: Bundle, images: int) -> None:
    tagger = build_tagger(tiny, choose_device("cpu", threads=1), "fp32")
    assert len(USES["tagger"].trial(tagger, [tagger.self_test_image()] * images)) == images
    captioner = EchoCaptioner()
    USES["captioner"].trial(captioner, [captioner.self_test_image()] * images)
    assert captioner.guides == [""] * images
