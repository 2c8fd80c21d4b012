"""Every tensor of the published checkpoints is loaded, or dropped for a reason that has a name."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.parity.subjects import SMALL, checkpoint, config_of, official_keys
from workers.errors import Misconfigured
from workers.models.ram.config import PUBLISHED, AnyConfig, Kind, from_json, to_json
from workers.models.ram.keys import CONSTANT, UNUSED, plan, translate
from workers.models.ram.networks import empty_model, filled_model

pytestmark = pytest.mark.slow

KINDS = tuple(PUBLISHED)


@pytest.mark.parametrize("kind", KINDS)
def test_every_published_name_has_its_place_and_every_parameter_its_name(kind: Kind) -> None:
    keys = official_keys(kind)
    config = config_of(kind, "full")
    found = plan(keys, config)
    assert set(found.loaded) | set(found.dropped) == set(keys)
    assert not set(found.loaded) & set(found.dropped)
    ours = empty_model(config).state_dict()
    filled = Counter(target.name for target in found.loaded.values())
    assert set(filled) == set(ours)
    for official, target in found.loaded.items():
        shape = tuple(ours[target.name].shape)
        wanted = (shape[0] // target.blocks, *shape[1:]) if shape else shape
        assert keys[official][-len(wanted) :] == wanted if wanted else keys[official] == ()
        assert filled[target.name] == target.blocks


@pytest.mark.parametrize(("kind", "constant", "tied"), [("ram", 37, 34), ("ram_plus", 35, 0), ("tag2text", 37, 34)])
def test_constant_and_tied_tensors_are_dropped_and_nothing_else(kind: Kind, constant: int, tied: int) -> None:
    found = plan(official_keys(kind), config_of(kind, "full"))
    reasons = Counter(reason == CONSTANT for reason in found.dropped.values())
    assert (reasons[True], reasons[False]) == (constant, tied)
    assert len(found.tied) == tied


def test_ram_for_tagging_alone_leaves_the_captioning_branch_out() -> None:
    keys = official_keys("ram")
    found = plan(keys, PUBLISHED["ram"])
    unused = {name for name, reason in found.dropped.items() if reason == UNUSED}
    assert unused == {
        name
        for name in keys
        if name.startswith(("tag_encoder.", "text_decoder.")) and not name.endswith("position_ids")
    }
    parameters = sum(tensor.numel() for tensor in empty_model(PUBLISHED["ram"]).state_dict().values())
    assert parameters == 212_117_045


@pytest.mark.parametrize(("kind", "parameters"), [("ram_plus", 329_493_046), ("tag2text", 372_007_193)])
def test_the_models_have_the_published_number_of_parameters(kind: Kind, parameters: int) -> None:
    assert sum(tensor.numel() for tensor in empty_model(PUBLISHED[kind]).state_dict().values()) == parameters


def test_the_old_name_of_the_tag_head_is_understood() -> None:
    tensors = _small("tag2text")
    old = {name.replace("tagging_head", "vision_multi"): tensor for name, tensor in tensors.items()}
    assert old.keys() != tensors.keys()
    assert _equal(translate(old, SMALL["tag2text"]), translate(tensors, SMALL["tag2text"]))


def test_names_that_repeat_or_are_constant_may_be_absent() -> None:
    tensors = _small("tag2text")
    found = plan(tensors, SMALL["tag2text"])
    lean = {name: tensor for name, tensor in tensors.items() if name not in found.dropped}
    assert _equal(translate(lean, SMALL["tag2text"]), translate(tensors, SMALL["tag2text"]))


@pytest.mark.parametrize(
    ("kind", "name", "tensor", "says"),
    [
        (
            "ram",
            "visual_encoder.layers.2.blocks.1.attn.proj.bias",
            None,
            r"lacks 1 of the .*encoder\.stages\.2\.blocks\.1\.attention\.out\.bias",
        ),
        (
            "tag2text",
            "text_decoder.bert.encoder.layer.1.attention.self.key.weight",
            None,
            r"text\.decoder\.attention\.1\.qkv\.weight",
        ),
        ("ram", "tagging_head.pooler.weight", torch.zeros(1), r"does not know, e\.g\. tagging_head\.pooler"),
        ("ram", "label_embed", torch.zeros(61, 512), r"label_embed has the shape \(61, 512\) .* needs \(60, 512\)"),
        (
            "tag2text",
            "tag_encoder.encoder.layer.1.output.dense.bias",
            torch.ones(96),
            "two different tensors",
        ),
    ],
    ids=["missing", "a missing part of a joined projection", "unknown", "another size", "tied ones that differ"],
)
def test_a_tensor_that_does_not_fit_is_an_error_that_names_it(
    kind: Kind, name: str, tensor: Tensor | None, says: str
) -> None:
    tensors = {**_small(kind), name: tensor}
    with pytest.raises(Misconfigured, match=says):
        translate({name: each for name, each in tensors.items() if each is not None}, SMALL[kind])


def test_another_models_file_is_an_error() -> None:
    with pytest.raises(Misconfigured, match="is it the file of another model"):
        translate(_small("tag2text"), SMALL["ram"])
    with pytest.raises(Misconfigured, match="is it the file of another model"):
        translate(_small("ram"), SMALL["ram_plus"])


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_survive_the_bundle(kind: Kind) -> None:
    config = PUBLISHED[kind]
    assert from_json(kind, to_json(config)) == config
    with pytest.raises(Misconfigured, match="labels"):
        from_json(kind, {key: value for key, value in to_json(config).items() if key != "labels"})


@pytest.mark.parametrize("kind", KINDS)
def test_the_224_variant_runs(kind: Kind) -> None:
    small: AnyConfig = SMALL[kind]
    config = replace(small, encoder=replace(small.encoder, image_size=224, window=7))
    torch.manual_seed(0)
    weights = {name: torch.randn(tensor.shape) for name, tensor in empty_model(config).state_dict().items()}
    model = filled_model(config, weights)
    tokens = model.encode(torch.rand(2, 3, 224, 224))
    assert tokens.shape == (2, 50, 128)
    assert torch.isfinite(model.score(model.embed(tokens))).all()


def _small(kind: Kind) -> dict[str, Tensor]:
    return checkpoint(kind, SMALL[kind], 0.0, full=False)


def _equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
