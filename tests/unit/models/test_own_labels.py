"""Labels of a label file in bundles: their vectors, thresholds by rank, and the two numbers of calibration."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from tests.unit.models.small import small_bundle
from tests.unit.models.small_dual import small_dual
from tests.unit.models.test_label_file import WHOLE, written
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.calibration import PLAIN, Calibrated, Line
from workers.models.device import choose_device
from workers.models.dual.adapters import BACKGROUND, VECTORS, A, B, build_tagger
from workers.models.dual.config import KINDS
from workers.models.dual.text import TextEncoder, open_text
from workers.models.labels import read_label_file
from workers.models.load import load_tagger
from workers.models.manifest import LabelSource
from workers.models.own_labels import GUESSES, by_rank, uncalibrated, with_calibration, with_own_labels
from workers.models.tagger import sample_image

CPU = choose_device("cpu")
IMAGES = [sample_image(64, seed) for seed in range(3)]


@pytest.fixture(scope="module", params=KINDS)
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_dual(request.param, tmp_path_factory.mktemp("own") / request.param)


@pytest.fixture(scope="module")
def text(plain: Bundle) -> TextEncoder:
    return open_text(plain)


class Words:
    """A text tower of RAM's space: each sentence has a seeded vector."""

    def __init__(self, space: str = "clip-vit-b-16") -> None:
        self.space = space

    def encode(self, sentences: list[str]) -> torch.Tensor:
        seeds = [torch.Generator().manual_seed(sum(map(ord, sentence))) for sentence in sentences]
        return F.normalize(torch.stack([torch.randn(512, generator=seed) for seed in seeds]), dim=1)

    def require_space(self, space: str, of: str) -> None:
        if space != self.space:
            raise Misconfigured(f"{of}: {space} and {self.space} can't be compared")


def made_of(content: str, bundle: Bundle, encoder: object, out: Path) -> Bundle:
    file = read_label_file(written(out.parent, content, f"{out.name}.toml"))
    told = LabelSource(file=f"{out.name}.toml", sha256=file.sha256, text="text", shares=(None,) * len(file.labels))
    return with_own_labels(bundle, file, encoder, out, told)  # type: ignore[arg-type]


def test_a_label_is_the_unit_mean_of_its_sentences(plain: Bundle, text: TextEncoder, tmp_path: Path) -> None:
    made = made_of(WHOLE, plain, text, tmp_path / "made")
    found = made.weights()
    rows = text.encode(["a photo of a forklift.", "a photo of a industrial truck with two prongs."])
    torch.testing.assert_close(found[VECTORS][0], F.normalize(rows.mean(0), dim=0))
    torch.testing.assert_close(found[VECTORS][1], text.encode(["a photo of a pallet."])[0])
    assert (found[A].tolist(), found[B].tolist()) == ([1, 1], [0, 0])
    assert (BACKGROUND in found) == (plain.manifest.kind == "clip")
    assert made.labels == ("forklift", "pallet")
    assert (made.thresholds[0], made.thresholds[1]) == (0.3, GUESSES[plain.manifest.kind])
    assert made.translations == {"de": ("Gabelstapler", "pallet")}
    assert made.parents == [["vehicle", "machine"], []]
    assert made.manifest.floor == 0.01
    assert made.manifest.provenance.labels is not None
    assert made.manifest.provenance.labels.file == "made.toml"


def test_other_words_make_another_digest_and_other_thresholds_do_not(
    plain: Bundle, text: TextEncoder, tmp_path: Path
) -> None:
    made = made_of(WHOLE, plain, text, tmp_path / "made")
    other = made_of(WHOLE.replace("two prongs", "a fork"), plain, text, tmp_path / "other")
    assert len({plain.digest, made.digest, other.digest}) == 3
    changed = made_of(WHOLE.replace("threshold = 0.3", "threshold = 0.2"), plain, text, tmp_path / "changed")
    assert changed.digest == made.digest


def test_words_of_another_space_are_refused(plain: Bundle, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="can't be compared"):
        made_of(WHOLE, plain, Words(), tmp_path / "made")


@pytest.mark.slow
def test_ram_has_the_mean_and_ram_plus_a_row_for_each_description(tmp_path: Path) -> None:
    words, templates = Words(), "templates = ['{}']"
    content = WHOLE.replace('templates = ["a photo of a {}."]', templates)
    a, b, pallet = words.encode(["forklift", "industrial truck with two prongs", "pallet"])
    ram = made_of(content, small_bundle("ram", tmp_path / "ram"), words, tmp_path / "of-ram")
    rows = ram.weights()["label_embed"].float()
    torch.testing.assert_close(rows, torch.stack([F.normalize((a + b) / 2, dim=0), pallet]), atol=5e-3, rtol=0)
    plus = made_of(content, small_bundle("ram_plus", tmp_path / "plus"), words, tmp_path / "of-plus")
    rows = plus.weights()["label_embed"].float()
    torch.testing.assert_close(rows, torch.stack([a, b, pallet, pallet]), atol=5e-3, rtol=0)
    assert (plus.labels, plus.thresholds, plus.parents[0]) == (
        ("forklift", "pallet"),
        (0.3, 0.5),
        ["vehicle", "machine"],
    )
    assert len(load_tagger(plus.folder).forward([sample_image(plus.transform.size)])[0]) == 2


@pytest.mark.slow
def test_labels_that_are_learnt_one_by_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="learnt one by one"):
        made_of(WHOLE, small_bundle("tag2text", tmp_path / "tag2text"), Words(), tmp_path / "made")


def test_the_share_of_images_passes_a_threshold_by_rank() -> None:
    logits = np.random.default_rng(3).normal(-12, 2, (500, 3))
    shares = (0.01, 0.1, 0.0001)
    found = by_rank(logits, shares)
    scores = np.stack([each.line.scores(column) for each, column in zip(found, logits.T, strict=True)])
    assert (scores > 0.5).sum(1).tolist() == [5, 50, 1]
    with pytest.raises(Misconfigured, match="99 images"):
        by_rank(logits[:99], shares)


def test_calibration_changes_scores_by_its_two_numbers_and_keeps_the_rest(
    plain: Bundle, text: TextEncoder, tmp_path: Path
) -> None:
    made = made_of(WHOLE, plain, text, tmp_path / "made")
    found = {0: Calibrated(50, 50, "", Line(0.5, 3.0), 0.4), 1: Calibrated(3, 50, "too few", PLAIN, 0.9)}
    calibrated = with_calibration(made, tmp_path / "calibrated", found)
    assert calibrated.digest != made.digest
    assert calibrated.thresholds == (0.4, made.thresholds[1])
    assert (calibrated.translations, calibrated.parents) == (made.translations, made.parents)
    before, after = (np.stack(build_tagger(each, CPU, "fp32").forward(IMAGES)) for each in (made, calibrated))
    np.testing.assert_allclose(after[:, 0], 0.5 * before[:, 0] + 3, atol=1e-4)
    np.testing.assert_allclose(after[:, 1:], before[:, 1:], atol=1e-5)
    np.testing.assert_allclose(uncalibrated(calibrated, after), before[:, :2], atol=1e-4)
