"""LoRA: nothing changes at first, little is trained, and merging gives back plain layers that answer the same."""

from __future__ import annotations

import torch
from torch import nn

from tagstream_train.layers import LoraLinear, add_lora, merge_lora


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Sequential(nn.GELU(), nn.Linear(8, 3, bias=False)))


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


def test_lora_changes_nothing_at_first() -> None:
    network = _network()
    expected = network(X)
    add_lora(network, 2)
    assert torch.equal(network(X), expected)


def test_only_the_narrow_matrices_learn() -> None:
    network = _network()
    add_lora(network, 2)
    learning = {name: tuple(p.shape) for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {"0.down": (2, 6), "0.up": (8, 2), "2.1.down": (2, 8), "2.1.up": (3, 2)}


def test_a_merged_network_answers_as_the_trained_one() -> None:
    network = _network()
    names = set(network.state_dict())
    add_lora(network, 2)
    for module in network.modules():
        if isinstance(module, LoraLinear):
            nn.init.normal_(module.up)
    expected = network(X)
    merge_lora(network)
    assert set(network.state_dict()) == names
    torch.testing.assert_close(network(X), expected)
