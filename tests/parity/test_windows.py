"""Checkpoints of other sizes than the published ones: found by their shapes, and stretched to other images."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.subjects import REFERENCE, checkpoint
from tests.unit.models.small import SMALL
from workers.errors import Misconfigured
from workers.models.device import choose_device
from workers.models.ram import config
from workers.models.ram.adapters import build_tagger
from workers.models.ram.config import PUBLISHED, AnyConfig, Kind
from workers.models.ram.importer import Lists, import_checkpoint
from workers.models.ram.keys import translate
from workers.models.ram.networks import empty_model, filled_model
from workers.models.ram.sizes import resampled, sizes_in, trained_at, window_of, with_windows
from workers.models.tagger import sample_image

pytestmark = pytest.mark.slow

KINDS = tuple(PUBLISHED)
MADE: Mapping[Kind, type[AnyConfig]] = {kind: type(sizes) for kind, sizes in PUBLISHED.items()}
WINDOW_4 = config.SwinConfig(image_size=128, width=16, depths=(1, 2, 1, 1), heads=(1, 2, 4, 8), window=4)
"""Fourth stage: one window of 4 x 4 tokens."""


def shapes_of(kind: Kind, sizes: AnyConfig) -> dict[str, Tensor]:
    """A checkpoint of these sizes without storage: the published names with the shapes that this model needs."""
    ours = empty_model(sizes).state_dict()
    blocks = [(stage, block) for stage, depth in enumerate(sizes.encoder.depths) for block in range(depth)]
    tables = {
        f"visual_encoder.layers.{s}.blocks.{b}.attn.relative_position_bias_table": ours[
            f"encoder.stages.{s}.blocks.{b}.attention.bias_table"
        ]
        for s, b in blocks
    }
    label = {"tag2text": ("label_embed.weight", "fc.W"), "ram_plus": ("label_embed", "reweight_scale")}
    embed, classifier = label.get(kind, ("label_embed", "fc.weight"))
    return {
        "visual_encoder.patch_embed.proj.weight": ours["encoder.patches.project.weight"],
        embed: ours["label_embed"],
        classifier: torch.zeros(1),
        **tables,
    }


@pytest.mark.parametrize("direction", ["7_12", "12_7"])
def test_a_bias_table_is_resampled_to_the_numbers_of_the_original_loader(direction: str) -> None:
    with np.load(REFERENCE / "windows.npz") as file:
        table, wanted = file[f"table_{direction}"], file[f"resampled_{direction}"]
    found = resampled(torch.from_numpy(table), int(direction.partition("_")[2]))
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - wanted).max() <= 1e-6


def test_a_table_of_the_wanted_window_stays_unchanged() -> None:
    table = torch.randn(529, 2)
    assert resampled(table, 12) is table


def test_a_constant_table_stays_constant_and_the_middle_stays_in_the_middle() -> None:
    assert torch.allclose(resampled(torch.full((169, 1), 3.0), 12), torch.full((529, 1), 3.0))
    peaked = torch.zeros(13, 13, 1)
    peaked[6, 6] = 1.0
    found = resampled(peaked.view(169, 1), 12).view(23, 23)
    assert found[11, 11] == pytest.approx(1.0)
    assert torch.allclose(found, found.flip(0), atol=1e-6)
    assert torch.allclose(found, found.t(), atol=1e-6)


@pytest.mark.parametrize(("rows", "window"), [(529, 12), (169, 7), (9, 2), (168, None), (144, None), (16, None)])
def test_a_table_fits_one_window(rows: int, window: int | None) -> None:
    assert window_of(torch.zeros(rows, 3)) == window


@pytest.mark.parametrize("encoder", [config.SWIN_BASE, config.SWIN_LARGE, config.SWIN_BASE_224, config.SWIN_LARGE_224])
@pytest.mark.parametrize("kind", KINDS)
def test_the_sizes_of_a_fine_tune_are_found_in_its_shapes(kind: Kind, encoder: config.SwinConfig) -> None:
    sizes = MADE[kind](encoder, labels=77)
    assert sizes_in(shapes_of(kind, sizes)) == sizes


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_checkpoints_have_the_published_sizes(kind: Kind) -> None:
    assert sizes_in(shapes_of(kind, PUBLISHED[kind])) == PUBLISHED[kind]


def test_another_image_than_it_was_trained_with_may_be_asked_for() -> None:
    small = shapes_of("tag2text", config.Tag2TextConfig(config.SWIN_BASE_224, labels=3429))
    assert trained_at(small) == 224
    assert sizes_in(small, 384) == PUBLISHED["tag2text"]


@pytest.mark.parametrize("side", [32, 100, 390])
def test_an_image_that_does_not_fit_the_encoder_is_a_sentence(side: int) -> None:
    with pytest.raises(Misconfigured, match=rf"images of {side} x {side} .* their side is a multiple of 32"):
        sizes_in(shapes_of("ram", PUBLISHED["ram"]), side)


def test_shapes_of_no_swin_transformer_are_sentences() -> None:
    tensors = shapes_of("ram", PUBLISHED["ram"])
    tables = [name for name in tensors if name.endswith("bias_table")]
    with pytest.raises(Misconfigured, match="not a Swin transformer"):
        sizes_in({name: tensor for name, tensor in tensors.items() if name not in tables})
    with pytest.raises(Misconfigured, match=r"shape \(168, 6\) fit no square window"):
        sizes_in(tensors | {tables[0]: torch.zeros(168, 6)})
    with pytest.raises(Misconfigured, match="11 rows, where RAM\\+\\+ has 51 for each label"):
        sizes_in(shapes_of("ram_plus", PUBLISHED["ram_plus"]) | {"label_embed": torch.zeros(11, 512)})


@pytest.fixture
def fine_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A RAM of seven labels, trained with images of 128 x 128; its encoder is not the published one."""
    monkeypatch.setitem(config.PUBLISHED, "ram", SMALL["ram"])
    monkeypatch.setitem(config.PUBLISHED, "ram_plus", SMALL["ram_plus"])
    tensors = checkpoint("ram", replace(SMALL["ram"], encoder=WINDOW_4, labels=7), 0.0, full=False)
    path = tmp_path / "mine.pth"
    torch.save({"model": tensors}, path)
    (tmp_path / "tags.txt").write_text("".join(f"tag {number}\n" for number in range(7)))
    return path


def lists(fine_tune: Path) -> Lists:
    return Lists(fine_tune.with_name("tags.txt"))


def test_a_fine_tune_is_imported_with_its_own_labels_and_image(fine_tune: Path, tmp_path: Path) -> None:
    bundle = import_checkpoint(fine_tune, tmp_path / "out", lists(fine_tune), dtype="fp32")
    assert bundle.manifest.labels == 7
    assert bundle.manifest.transform.size == 128
    tagger = build_tagger(bundle, choose_device("cpu"), "fp32")
    tagger.warm_up()
    assert tagger.forward([sample_image(128)])[0].shape == (7,)


def test_a_fine_tune_is_imported_for_larger_images(fine_tune: Path, tmp_path: Path) -> None:
    bundle = import_checkpoint(fine_tune, tmp_path / "out", lists(fine_tune), dtype="fp32", image_size=192)
    assert bundle.manifest.transform.size == 192
    name = "encoder.stages.1.blocks.1.attention.bias_table"
    original = torch.load(fine_tune)["model"]["visual_encoder.layers.1.blocks.1.attn.relative_position_bias_table"]
    assert torch.equal(bundle.weights()[name], resampled(original, 6))
    build_tagger(bundle, choose_device("cpu"), "fp32").warm_up()


def test_a_list_of_other_labels_than_the_fine_tunes_is_a_sentence(fine_tune: Path, tmp_path: Path) -> None:
    lists(fine_tune).tags.write_text("only one\n")
    with pytest.raises(Misconfigured, match="has 1 lines where the checkpoint has 7 labels"):
        import_checkpoint(fine_tune, tmp_path / "out", lists(fine_tune))
    assert not (tmp_path / "out").exists()


def test_a_stretched_model_gives_nearly_the_answers_of_its_own_size() -> None:
    """Of an image of one colour with a bias that falls slowly, every window sees the same, whatever its side."""
    sizes = replace(SMALL["ram"], encoder=WINDOW_4, labels=7)
    tensors = checkpoint("ram", sizes, 0.0, full=False)
    for table in (name for name in tensors if name.endswith("bias_table")):
        tensors[table] = torch.zeros_like(tensors[table])
    larger = sizes_like(sizes, 192)
    grey = torch.full((1, 3, 192, 192), 0.3)
    small = filled_model(sizes, translate(tensors, sizes)).encode(grey[..., :128, :128])
    large = filled_model(larger, translate(with_windows(tensors, 6), larger)).encode(grey)
    assert torch.allclose(small[:, 0], large[:, 0], atol=1e-4)


def sizes_like(sizes: AnyConfig, side: int) -> AnyConfig:
    return replace(sizes, encoder=replace(sizes.encoder, image_size=side, window=side // 32))
