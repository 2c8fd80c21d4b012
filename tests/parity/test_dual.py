"""SigLIP 2 and CLIP against the numbers of transformers, in both published layouts of the same parameters."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.dual import PICTURES, Dual, elsewhere
from workers.errors import Misconfigured
from workers.models.cpu_layers import pack
from workers.models.device import choose_device
from workers.models.dual.layouts import read
from workers.models.dual.towers import ImageTower, filled

EMBEDDING, LOGIT = 1e-5, 1e-4


@pytest.fixture(
    scope="module",
    params=[
        "siglip_small",
        "clip_small",
        pytest.param("siglip2_b16_224", marks=pytest.mark.full),
        pytest.param("clip_b16", marks=pytest.mark.full),
    ],
)
def dual(request: pytest.FixtureRequest) -> Dual:
    return Dual(request.param)


def test_the_pictures_equal_those_of_the_reference(dual: Dual) -> None:
    dual.expect("pixels_first_rows", dual.images[:, :, :2], 1e-6)


def test_vectors_and_logits_are_the_original_ones(dual: Dual) -> None:
    config = dual.encoder.config
    with torch.inference_mode():
        images, texts = dual.image(dual.images), dual.text(*dual.ids)
    dual.expect("image_embedding", images, EMBEDDING)
    dual.expect("text_embedding", texts, EMBEDDING)
    dual.expect("logits_per_image", math.exp(config.scale) * images @ texts.T + config.bias, LOGIT)


def test_the_hidden_states_of_every_block_are_the_original_ones(dual: Dual) -> None:
    found: dict[str, list[Tensor]] = {"vision": [], "text": []}
    hooks = []
    for name, tower in (("vision", dual.image), ("text", dual.text)):
        for block in tower.blocks:
            hooks.append(
                block.register_forward_hook(lambda _, __, out, name=name: found[name].append(out[0, :4].clone()))
            )
    with torch.inference_mode():
        dual.image(dual.images[:1])
        dual.text(dual.ids[0][:1], dual.ids[1][:1])
    for hook in hooks:
        hook.remove()
    for name, states in found.items():
        wanted = dual.wanted[f"{name}_hidden_first4"][1:]
        assert np.abs(torch.stack(states).numpy() - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_the_other_layout_of_the_same_file_gives_the_same_parameters(dual: Dual) -> None:
    other = read(elsewhere(dual.published), "reference", heads=dual.heads)
    assert other.config == dual.encoder.config
    for mine, theirs in ((dual.encoder.image, other.image), (dual.encoder.text, other.text)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_fused_layers_give_what_plain_ones_give(dual: Dual) -> None:
    device = choose_device("cpu")
    if not device.fuses("fp32"):
        pytest.skip("this build of torch has no fused layers")
    tower = filled(ImageTower, dual.encoder.config, dual.encoder.image)
    with torch.inference_mode():
        pack(tower, rows=PICTURES * dual.encoder.config.patches)
        dual.expect("image_embedding", tower(dual.images), EMBEDDING)


def test_a_causal_text_may_be_cut_behind_its_end(dual: Dual) -> None:
    ids, ends = dual.ids
    with torch.inference_mode():
        found = dual.text(ids[:1, : int(ends[0]) + 1], ends[:1])
    near = float(np.abs(found.numpy() - dual.wanted["text_embedding"][:1]).max()) <= EMBEDDING
    assert near or not dual.clip


@pytest.mark.parametrize("missing", ["logit_scale", "text_model.final_layer_norm.bias", "visual_projection.weight"])
def test_a_file_that_lacks_a_tensor_is_refused_by_its_name(missing: str) -> None:
    tensors = dict(Dual("clip_small").published)
    del tensors[missing]
    with pytest.raises(Misconfigured, match="is missing"):
        read(tensors, "reference", heads=(4, 4))
