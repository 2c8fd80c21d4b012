"""Where a training starts, what noise it has, and how captions are drawn and cut."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tagstream_train.data.samples import Sample
from tagstream_train.pretrain.captions import MAX_TOKENS, Drawn, caption_tokens, draw, guide_tokens
from tagstream_train.pretrain.noise import add_noise
from tagstream_train.pretrain.start import at_size, check_grids, fresh, load_bundle, load_encoder, scaled
from tests.unit.models.small import SMALL, small_bundle, small_checkpoint
from workers.errors import Misconfigured
from workers.models.ram.alignment import MAX_WORDS, cleaned
from workers.models.ram.config import HeadConfig, Kind, SwinConfig
from workers.models.ram.importer import made_up_vocabulary
from workers.models.ram.networks import LabelScorer
from workers.models.ram.swin import Block
from workers.models.ram.wordpiece import DEC, ENC, PROMPT_IDS, SEP, WordPiece

pytestmark = pytest.mark.slow

SMALL_RAM = SMALL["ram"]


@pytest.fixture(scope="module")
def wordpiece() -> WordPiece:
    return WordPiece(list(made_up_vocabulary()))


# random weights


def test_a_seed_gives_the_same_weights_and_another_others() -> None:
    one, same, other = (fresh(SMALL_RAM, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["label_embed"], other["label_embed"])


def test_a_narrow_model_begins_with_wider_weights_and_a_published_one_as_the_official_programs() -> None:
    narrow = fresh(SMALL_RAM, seed=0).state_dict()
    weights = narrow["head.layers.0.out.weight"]
    assert float(weights.std()) == pytest.approx(0.02 * (768 / weights.shape[1]) ** 0.5, rel=0.1)
    queries = narrow["label_embed"] @ narrow["label_proj.weight"].T
    assert float(queries.std()) == pytest.approx(1, rel=0.1)
    wide = fresh(replace(SMALL_RAM, head=HeadConfig(width=768, heads=4, layers=1, hidden=8)), seed=0).state_dict()
    assert float(wide["head.layers.0.out.weight"].std()) == pytest.approx(0.02, rel=0.01)
    assert float(wide["label_proj.weight"].abs().max()) < wide["label_embed"].shape[1] ** -0.5


def test_given_embeddings_of_labels_have_length_one() -> None:
    assert torch.allclose(torch.linalg.vector_norm(fresh(SMALL_RAM, seed=0).label_embed, dim=1), torch.ones(60))


# other sizes of images


def test_a_model_for_larger_images_keeps_its_weights_and_has_wider_windows() -> None:
    model = fresh(SMALL_RAM, seed=0)
    larger, config = at_size(model, SMALL_RAM, 128)
    assert (config.encoder.image_size, config.encoder.window) == (128, 4)
    own, old = larger.state_dict(), model.state_dict()
    changed = {name for name in own if own[name].shape != old[name].shape}
    assert changed == {name for name in own if name.endswith("bias_table")}
    assert all(torch.equal(own[name], old[name]) for name in own.keys() - changed)
    logits = larger.score(larger.embed(larger.encode(torch.zeros(1, 3, 128, 128))))
    assert torch.isfinite(logits).all()


def test_windows_that_do_not_fit_are_a_sentence() -> None:
    swin = SwinConfig(image_size=64, width=16, depths=(1, 1), heads=(1, 2), window=4)
    with pytest.raises(Misconfigured, match=r"4\.5 tokens"):
        scaled(swin, 72)
    with pytest.raises(Misconfigured, match="stage 0 a grid of 16 tokens"):
        check_grids(replace(swin, window=3))
    with pytest.raises(Misconfigured, match="16 channels for 3 heads"):
        check_grids(replace(swin, heads=(3, 2)))
    with pytest.raises(Misconfigured, match="2 depths for 1"):
        check_grids(replace(swin, heads=(3,)))


# an encoder from a Swin checkpoint


def test_the_encoder_comes_from_a_swin_checkpoint(tmp_path: Path) -> None:
    prefix = "visual_encoder."
    published = small_checkpoint("ram", tmp_path / "ram.pth")
    swin = {name.removeprefix(prefix): tensor for name, tensor in published.items() if name.startswith(prefix)}
    torch.save({"model": {**swin, "head.weight": torch.zeros(10, 128)}}, tmp_path / "swin.pth")
    model = fresh(SMALL_RAM, seed=0)
    load_encoder(model, tmp_path / "swin.pth")
    assert torch.equal(model.encoder.patches.project.weight, published["visual_encoder.patch_embed.proj.weight"])

    larger = replace(SMALL_RAM, encoder=scaled(SMALL_RAM.encoder, 128))
    load_encoder(fresh(larger, seed=0), tmp_path / "swin.pth")  # its biases are resampled

    wider = replace(SMALL_RAM, encoder=replace(SMALL_RAM.encoder, width=32))
    with pytest.raises(Misconfigured, match="of another size"):
        load_encoder(fresh(wider, seed=0), tmp_path / "swin.pth")
    torch.save({"model": {"conv1.weight": torch.zeros(3)}}, tmp_path / "resnet.pth")
    with pytest.raises(Misconfigured, match=r"resnet.pth: .*conv1.weight"):
        load_encoder(model, tmp_path / "resnet.pth")


# a bundle


@pytest.mark.parametrize("kind", ["ram", "ram_plus", "tag2text"])
def test_a_bundle_of_the_same_labels_gives_every_weight(kind: Kind, tmp_path: Path) -> None:
    bundle = small_bundle(kind, tmp_path / kind)
    model = fresh(SMALL[kind], seed=5)
    assert load_bundle(model, bundle, bundle.labels) == []
    weights = bundle.weights()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_of_other_labels_only_common_ones_are_taken(tmp_path: Path) -> None:
    bundle = small_bundle("tag2text", tmp_path / "tag2text")
    labels = ["new", *bundle.labels[:59]]
    model = fresh(SMALL["tag2text"], seed=5)
    untouched = model.state_dict()["class_bias"][0].clone()
    assert load_bundle(model, bundle, labels) == ["label new"]
    assert torch.equal(model.state_dict()["class_bias"][1:], bundle.weights()["class_bias"][:59])
    assert torch.equal(model.state_dict()["class_bias"][0], untouched)


def test_a_bundle_of_another_kind_gives_its_encoder(tmp_path: Path) -> None:
    bundle = small_bundle("tag2text", tmp_path / "tag2text")
    model = fresh(SMALL_RAM, seed=5)
    missing = load_bundle(model, bundle, bundle.labels)
    assert "label_embed" in missing
    assert not [name for name in missing if name.startswith("encoder.")]
    wider = replace(SMALL_RAM, encoder=replace(SMALL_RAM.encoder, width=32))
    with pytest.raises(Misconfigured, match="image encoder of another size"):
        load_bundle(fresh(wider, seed=0), bundle, bundle.labels)


# noise


def test_training_drops_and_evaluation_does_not() -> None:
    model = fresh(SMALL_RAM, seed=0)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain = _logits(model, images)
    add_noise(model, depth=0.5, dropout=0.5)
    assert not torch.equal(_logits(model, images), _logits(model, images))
    model.eval()
    assert torch.equal(_logits(model, images), _logits(model, images))
    assert torch.allclose(_logits(model, images), plain, atol=1e-5)  # evaluation multiplies in another order


def test_an_image_keeps_a_whole_branch_or_skips_it() -> None:
    model = fresh(SMALL_RAM, seed=0)
    add_noise(model, depth=0.5, dropout=0)
    *_, last = (module for module in model.encoder.modules() if isinstance(module, Block))
    branches = torch.cat([last.down(torch.ones(64, 3, 512)) for _ in range(4)])
    skipped = branches.abs().sum(dim=(1, 2)) == 0
    assert 0 < int(skipped.sum()) < len(skipped)
    expected = 2 * torch.nn.functional.linear(torch.ones(3, 512), last.down.weight, last.down.bias)
    assert torch.allclose(branches[~skipped], expected.expand(int((~skipped).sum()), -1, -1), atol=1e-6)


def _logits(model: LabelScorer, images: Tensor) -> Tensor:
    return model.score(model.embed(model.encode(images)))


# captions


def test_a_caption_is_drawn_by_the_seed_with_its_own_labels() -> None:
    sample = Sample(image="a", captions=("one", "two", "three"), caption_tags=((2, 1), (3,), ()), tags=(1, 2, 3, 4))
    found = {seed: draw(sample, seed) for seed in range(40)}
    assert {(each.caption, each.tags) for each in _all(found)} == {("one", (1, 2)), ("two", (3,)), ("three", ())}
    assert found == {seed: draw(sample, seed) for seed in range(40)}
    assert draw(Sample(image="a", tags=(1,)), 0) is None


def test_an_unparsed_caption_has_all_labels_of_its_image() -> None:
    (drawn,) = _all({0: draw(Sample(image="a", captions=("one",), tags=(4, 1)), 0)})
    assert drawn.tags == (1, 4)


def _all(found: dict[int, Drawn | None]) -> Iterator[Drawn]:
    return (each for each in found.values() if each is not None)


def test_captions_are_cleaned_as_the_official_programs_do_it() -> None:
    assert cleaned('A "Red" dog; (running): #1 ~fast*!') == "a red dog running 1 fast"
    assert len(cleaned("word " * 50).split()) == MAX_WORDS


def test_captions_begin_with_the_prompt_and_end_within_forty_tokens(wordpiece: WordPiece) -> None:
    ids, mask = caption_tokens(wordpiece, ["A dog.", "zzzzzzzz " * 30])
    assert tuple(ids[0, :4].tolist()) == PROMPT_IDS
    assert ids.shape == mask.shape == (2, MAX_TOKENS)
    assert ids[1, -1] == SEP
    short = int(mask[0].sum())
    assert ids[0, short - 1] == SEP
    assert not ids[0, short:].any()
    plain, _ = caption_tokens(wordpiece, ["A dog."], prompt=False)
    assert plain[0].tolist() == [DEC, *ids[0, 4:short].tolist()]


def test_guides_name_the_labels_in_the_order_of_their_numbers(wordpiece: WordPiece) -> None:
    ids, mask = guide_tokens(wordpiece, ["b", "a", "c"], [(2, 0), ()])
    body = wordpiece.encode("b | c")
    assert ids[0, : len(body) + 2].tolist() == [ENC, *body, SEP]
    assert mask.sum(dim=1).tolist() == [len(body) + 2, 2]
