"""A plan's file and its learning rates."""

import math
from pathlib import Path

import pytest

from tagstream_train.plan import Plan, rate, read_toml, toml_of
from workers.errors import Misconfigured


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    plan = Plan(steps=70, lr=3e-5, decay="exponential", decay_at="epoch", ema=0.99, precision="bf16", threads=2)
    (tmp_path / "plan.toml").write_text(toml_of(plan))
    assert read_toml(Plan, tmp_path / "plan.toml") == plan


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epochs = ", "not TOML"),
        ("epochs = 1\nspeed = 2\n", "speed"),
        ("epochs = 0\n", "epochs"),
        ("epochs = " + "[" * 5_000, "not TOML"),
        ("epochs = " + "9" * 5_000, "not TOML"),
        (".".join("a" * 10_000) + " = 1", "16,384 bytes"),
        ("batch = 8\n", "either epochs or steps"),
        ("epochs = 1\nsteps = 1\n", "either epochs or steps"),
        ("epochs = 1\nlr = nan\n", "lr"),
        ("epochs = 1\nlr = 1e-5\nfloor = 1e-4\n", "above the learning rate"),
    ],
)
def test_an_invalid_plan_is_a_sentence(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(Misconfigured, match=told):
        read_toml(Plan, tmp_path / "plan.toml")


PRETRAIN = Plan(epochs=5, lr=1e-4, warmup_steps=3000, decay="exponential", decay_at="epoch", floor=5e-7)
FINETUNE = Plan(epochs=2, lr=5e-6, decay="cosine", decay_at="epoch")


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 5e-7),
        (1500, 5e-7 + (1e-4 - 5e-7) / 2),
        (3000, 1e-4),
        (9_999, 1e-4),
        (10_000, 0.9e-4),
        (19_999, 0.9e-4),
        (40_000, 0.9**4 * 1e-4),
    ],
)
def test_rates_of_pretraining_are_the_papers(step: int, expected: float) -> None:
    assert rate(PRETRAIN, step, 50_000, 10_000) == pytest.approx(expected)


def test_an_exponential_decay_ends_at_the_floor() -> None:
    assert rate(PRETRAIN, 1_000_000, 1_000_001, 10_000) == 5e-7


@pytest.mark.parametrize(("step", "expected"), [(0, 5e-6), (99, 5e-6), (100, 2.5e-6), (199, 2.5e-6)])
def test_rates_of_finetuning_are_the_papers(step: int, expected: float) -> None:
    assert rate(FINETUNE, step, 200, 100) == pytest.approx(expected)


def test_a_rate_that_falls_at_each_step_ends_near_the_floor() -> None:
    plan = Plan(epochs=1, lr=1.0, floor=0.1)
    rates = [rate(plan, step, 100, 100) for step in range(100)]
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)
    assert rates[50] == pytest.approx(0.55)
    assert rates[99] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.99)))


def test_a_constant_rate_stays() -> None:
    plan = Plan(steps=10, lr=0.5, decay="constant", warmup_steps=2, warmup_from=0.1)
    assert [rate(plan, step, 10, 3.5) for step in (0, 1, 2, 9)] == pytest.approx([0.1, 0.3, 0.5, 0.5])
