from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.models.tiny import SIDE, build_tagger, tiny_bundle
from workers.errors import Broken
from workers.models.bundle import Bundle
from workers.models.device import choose_device
from workers.models.tagger import PIECE, TorchTagger, sample_image

CPU = choose_device("cpu")


def test_scores_are_sigmoids_of_the_logits_above_the_floor(tiny: Bundle) -> None:
    tagger = build_tagger(tiny, CPU, "fp32")
    scores = tagger.postprocess(np.array([0.0, -3.0, 200.0, -200.0], np.float32))
    assert scores.label_ids.tolist() == [0, 2]
    assert scores.scores.tolist() == [0.5, 1.0]


def test_a_score_never_exceeds_one_however_large_the_logit(tiny: Bundle) -> None:
    scores = build_tagger(tiny, CPU, "fp32").postprocess(np.full(4, 1e30, np.float32))
    assert scores.scores.max() == 1


def test_exclusive_scores_are_a_softmax_that_does_not_overflow(tiny: Bundle) -> None:
    tagger = TorchTagger(tiny, CPU, "fp32", lambda x: x, exclusive=True)
    scores = tagger.postprocess(np.array([1000.0, 1000.0, 0.0, -1000.0], np.float32))
    assert (scores.label_ids.tolist(), scores.scores.tolist()) == ([0, 1], [0.5, 0.5])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_no_number_is_a_value_error(tiny: Bundle, value: float) -> None:
    with pytest.raises(ValueError, match="not a number"):
        build_tagger(tiny, CPU, "fp32").postprocess(np.array([0, 0, value, 0], np.float32))


def test_more_images_than_travel_together_come_back_in_order(tiny: Bundle) -> None:
    tagger = build_tagger(tiny, CPU, "fp32")
    images = [sample_image(SIDE, seed) for seed in range(2 * PIECE + 1)]
    together = tagger.forward(images)
    assert len(together) == len(images)
    for image, row in zip(images, together, strict=True):
        np.testing.assert_allclose(row, tagger.forward([image])[0], atol=1e-6)


def test_a_subset_computes_its_own_columns_alone(tiny: Bundle) -> None:
    tagger = build_tagger(tiny, CPU, "fp32", [1, 3])
    full = build_tagger(tiny, CPU, "fp32")
    image = sample_image(SIDE)
    (row,) = tagger.forward([image])
    assert row.shape == (2,)
    np.testing.assert_allclose(row, full.forward([image])[0][[1, 3]], atol=1e-6)
    assert set(tagger.postprocess(row).label_ids.tolist()) <= {1, 3}
    assert tagger.labels == full.labels


def test_a_subset_passes_the_golden_check_of_the_full_set(tiny: Bundle) -> None:
    build_tagger(tiny, CPU, "fp32", [0, 2]).warm_up()


def test_two_subsets_have_different_digests(tiny: Bundle) -> None:
    digests = {build_tagger(tiny, CPU, "fp32", subset).digest for subset in (None, [0], [1], [0, 1])}
    assert len(digests) == 4


def test_warm_up_keeps_a_batch_size_that_is_known(tiny: Bundle) -> None:
    tagger = build_tagger(tiny, CPU, "fp32")
    tagger.max_batch = 3
    tagger.warm_up()
    assert tagger.max_batch == 3


def test_a_network_that_gives_no_numbers_is_broken_at_warm_up(tiny: Bundle) -> None:
    tagger = TorchTagger(tiny, CPU, "fp32", lambda x: torch.full((len(x), 4), torch.nan))
    with pytest.raises(Broken, match="golden answers"):
        tagger.warm_up()


def test_memory_that_runs_out_is_a_memory_error(tiny: Bundle) -> None:
    def hungry(x: Tensor) -> Tensor:
        return torch.empty(2**60)

    with pytest.raises(MemoryError):
        TorchTagger(tiny, CPU, "fp32", hungry).forward([sample_image(SIDE)])


def test_a_tagger_without_golden_answers_still_has_a_self_test_image(tiny: Bundle) -> None:
    bundle = Bundle(tiny.folder, tiny.manifest.model_copy(update={"files": {}}))
    tagger = build_tagger(bundle, CPU, "fp32")
    tagger.warm_up()
    assert tagger.self_test_image().shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("random", [True, False])
def test_random_weights_are_known_as_such(tmp_path: Path, random: bool) -> None:
    bundle = tiny_bundle(tmp_path / "b", provenance={"source": "seed 1", "random": random})
    assert build_tagger(bundle, CPU, "fp32").random_weights is random


def test_its_repr_tells_state_and_no_pixels(tiny: Bundle) -> None:
    assert repr(build_tagger(tiny, CPU, "fp32")).startswith("<TorchTagger tiny in fp32 on ")
