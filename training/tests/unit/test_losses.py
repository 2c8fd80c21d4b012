"""Losses: their values and gradients by other formulas; and layers of low rank."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tagstream_train import losses
from tagstream_train.fit.network import LoraLinear, add_lora, merge_lora


def test_asymmetric_loss_is_the_papers_formula_entry_by_entry() -> None:
    logits = torch.tensor([[2.0, -1.0, -9.0, 0.5]])
    targets = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    expected = 0.0
    for logit, target in zip(logits[0].tolist(), targets[0].tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        absent = min(1 - p + 0.05, 1)
        expected -= math.log(p) if target else (1 - absent) ** 7 * math.log(absent)
    assert float(losses.asymmetric(logits, targets)) == pytest.approx(expected, rel=1e-5)


def test_an_unknown_label_counts_nothing() -> None:
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    weights = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    loss = losses.asymmetric(logits, targets, weights=weights)
    known = losses.asymmetric(logits[weights == 1], targets[weights == 1])
    assert loss.item() == pytest.approx(known.item())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient[weights == 0], torch.zeros(2))


def test_a_label_that_is_surely_absent_has_no_gradient_left() -> None:
    logits = torch.tensor([[-8.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.asymmetric(logits, torch.zeros(1, 1)), logits)
    assert gradient.item() == 0


def test_given_tokens_and_padding_are_not_learnt() -> None:
    logits = torch.randn(1, 7, 11, generator=torch.Generator().manual_seed(1), requires_grad=True)
    ids = torch.tensor([[3, 4, 5, 6, 7, 8, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0]])
    (gradient,) = torch.autograd.grad(losses.text(logits, ids, mask, prompt=4), logits)
    assert gradient[0].abs().sum(dim=1).nonzero().flatten().tolist() == [3, 4]  # they give ids 7 and 8


def test_captions_shorter_than_the_prompt_cost_nothing() -> None:
    logits = torch.randn(1, 3, 5, requires_grad=True)
    loss = losses.text(logits, torch.tensor([[1, 2, 3]]), torch.ones(1, 3), prompt=4)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (loss.item(), gradient.abs().max().item()) == (0, 0)


def test_tagging_is_scaled_to_the_size_of_text_without_a_gradient_of_the_scale() -> None:
    tagging, text = (torch.tensor(value, requires_grad=True) for value in (8.0, 2.0))
    total = losses.balanced(tagging, text)
    assert total.item() == 4
    assert [float(each) for each in torch.autograd.grad(total, (tagging, text))] == [0.25, 1]
    assert losses.balanced(tagging, None) is tagging


@pytest.mark.parametrize(
    ("loss", "gamma"), [(losses.asymmetric, 7), (lambda logits, _: losses.alignment(logits), 4)], ids=["tags", "texts"]
)
def test_no_gradient_flows_through_the_focusing_factor(loss: Callable[[Tensor, Tensor], Tensor], gamma: int) -> None:
    logits = torch.linspace(-9, 3, 16, dtype=torch.float64).view(4, 4).requires_grad_()
    own = torch.eye(4, dtype=torch.float64)
    absent = (1.05 - logits.sigmoid()).clamp(max=1)
    focus = torch.where(own > 0, 1.0, (1 - absent) ** gamma).detach()
    held = -(torch.where(own > 0, logits.sigmoid(), absent).log() * focus).sum()
    (expected,), (found,) = (torch.autograd.grad(each, logits) for each in (held, loss(logits, own)))
    torch.testing.assert_close(found, expected)


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
