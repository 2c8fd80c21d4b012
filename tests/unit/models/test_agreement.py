"""How far answers agree, as counts and as one sentence."""

from pathlib import Path

import numpy as np
import pytest

from tests.unit.models.small import CPU, small_bundle
from tests.unit.models.tiny import build_tagger
from workers.models.bundle import Bundle
from workers.models.device import Precision
from workers.models.load import uses_of, with_golden
from workers.models.ram.adapters import build_captioner
from workers.models.ram.adapters import build_tagger as build_ram_tagger
from workers.models.tune import Agreement, of_captions, of_rows


def test_tags_are_compared_as_shown_and_logits_as_numbers(tiny: Bundle) -> None:
    tagger = build_tagger(tiny, CPU, "fp32")
    one = np.array([4, -4, -4, -4], np.float32)
    near, other = one + 0.5, np.array([4, 4, -4, -4], np.float32)
    assert of_rows(tagger, [one, one], [near, other]) == Agreement(2, 1, "tag sets", gap=8.0)


def test_captions_are_compared_word_for_word() -> None:
    assert of_captions(["a cat", "a dog"], ["a cat", "a hog"]) == Agreement(2, 1, "captions")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_agrees_with_its_own_golden_answers(tiny: Bundle, precision: Precision) -> None:
    found = with_golden(tiny, "tagger", build_tagger(tiny, CPU, precision))
    assert found is not None
    assert (found.images, found.same) == (2, 2)
    assert found.gap is not None
    assert (found.gap < 1e-5) == (precision == "fp32")


@pytest.mark.slow
def test_a_bundle_that_tags_and_captions_is_judged_in_both_roles(tmp_path: Path) -> None:
    bundle = small_bundle("tag2text", tmp_path / "bundle")
    assert uses_of(bundle) == ["tagger", "captioner"]
    tagger = with_golden(bundle, "tagger", build_ram_tagger(bundle, CPU, "fp32"))
    captioner = with_golden(bundle, "captioner", build_captioner(bundle, CPU, "fp32"))
    assert tagger is not None
    assert (tagger.same, tagger.what) == (2, "tag sets")
    assert captioner == Agreement(2, 2, "captions")


def test_a_bundle_without_golden_answers_can_not_be_judged(tiny: Bundle, tmp_path: Path) -> None:
    bare = Bundle.write(tmp_path / "bare", tiny.manifest, weights=tiny.weights(), labels=tiny.labels)
    assert with_golden(bare, "tagger", build_tagger(bare, CPU, "fp32")) is None
