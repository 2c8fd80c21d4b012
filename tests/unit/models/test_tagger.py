"""Taggers of torch: scores, subsets, digests, uses, and layouts of texts."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from schemas import enriched_image
from tests.support.harness import EchoCaptioner
from tests.unit.models.tiny import SIDE, build_tagger, tiny_bundle
from workers.environment import FIELDS
from workers.errors import Broken
from workers.models.added import Columns
from workers.models.bundle import Bundle
from workers.models.device import choose_device
from workers.models.tagger import PIECE, TorchTagger, sample_image
from workers.models.template import TemplateCaptioner, describe, with_article
from workers.models.tune import USES
from workers.pipeline.roles import ModelsByUse
from workers.settings import PinnedBundle, Settings
from workers.types import Caption

CPU = choose_device("cpu")


def test_scores_are_sigmoids_of_the_logits_above_the_floor(tiny: Bundle) -> None:
    tagger = build_tagger(tiny, CPU, "fp32")
    scores = tagger.postprocess(np.array([0.0, -3.0, 200.0, -200.0], np.float32))
    assert scores.label_ids.tolist() == [0, 2]
    assert scores.scores.tolist() == [0.5, 1.0]


def test_exclusive_scores_are_a_softmax_that_does_not_overflow(tiny: Bundle) -> None:
    tagger = TorchTagger(tiny, CPU, "fp32", lambda x: x, columns=Columns(4, (), (0, 1, 2, 3), exclusive=True))
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
def test_random_weights_are_recognised(tmp_path: Path, random: bool) -> None:
    bundle = tiny_bundle(tmp_path / "b", provenance={"source": "seed 1", "random": random})
    assert build_tagger(bundle, CPU, "fp32").random_weights is random


def test_every_loop_over_uses_knows_every_use() -> None:
    assert tuple(USES) == tuple(ModelsByUse.__annotations__) == enriched_image.USES
    for use in USES:
        assert use in FIELDS


def test_a_wrong_name_in_place_of_a_bundle_is_refused() -> None:
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


LAY_OUT = """
import sys
from workers.models.ram.networks import empty_model
from workers.models.ram.config import PUBLISHED
empty_model(PUBLISHED["tag2text"])
print([name for name in ("sympy", "triton", "torch._dynamo") if name in sys.modules])
"""


@pytest.mark.slow
def test_an_empty_captioner_does_not_import_torchs_compiler() -> None:
    run = subprocess.run([sys.executable, "-c", LAY_OUT], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_caption_is_marked_as_made_by_rule() -> None:
    assert TemplateCaptioner()(["cat"]) == Caption(text="a picture of a cat", score=None, method="template")


@pytest.mark.parametrize(
    ("names", "caption"),
    [
        ([], None),
        (["cat"], "a picture of a cat"),
        (["cat", "dog"], "a picture of a cat and a dog"),
        (["cat", "dog", "umbrella"], "a picture of a cat, a dog and an umbrella"),
        (["cat", "dog", "umbrella", "house"], "a picture of a cat, a dog and an umbrella"),
        (["espresso", "cup"], "a picture of espresso and a cup"),
        (["tiger cat", "Egyptian cat", "sofa", "tabby cat"], "a picture of a tiger cat and a sofa"),
        (["crane (bird)"], "a picture of a crane"),
        ([" ", "(bird)"], None),
    ],
)
def test_a_caption_names_at_most_three_tags(names: list[str], caption: str | None) -> None:
    assert describe(names) == caption


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("apple", "an apple"),
        ("Egyptian cat", "an Egyptian cat"),
        ("European fire salamander", "a European fire salamander"),
        ("unicycle", "a unicycle"),
        ("umbrella", "an umbrella"),
        ("hourglass", "an hourglass"),
        ("house", "a house"),
        ("one-piece swimsuit", "a one-piece swimsuit"),
        ("sunglasses", "sunglasses"),
        ("swimming trunks", "swimming trunks"),
        ("jeans", "jeans"),
        ("bus", "a bus"),
        ("compass", "a compass"),
        ("lens", "a lens"),
        ("mantis", "a mantis"),
        ("red wine", "red wine"),
        ("wine bottle", "a wine bottle"),
        ("my dog", "my dog"),
        ("A dog on a beach", "A dog on a beach"),
        ("theatre", "a theatre"),
    ],
)
def test_the_article_fits_the_name(name: str, named: str) -> None:
    assert with_article(name) == named
