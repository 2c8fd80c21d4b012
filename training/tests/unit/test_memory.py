"""What a training takes is counted before it starts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tagstream_train.data.loader import Batch
from tagstream_train.data.samples import Sample
from tagstream_train.loop import Plan
from tagstream_train.memory import MIB, Estimate, check, estimate
from training.tests.unit.runs import Parity, image
from workers.errors import Misconfigured

PLAN = Plan(epochs=1, batch=4)
ONE = Batch(torch.stack([image(0)] * 3), tuple(Sample(image=f"{i}.png") for i in range(3)))


class Wide(Parity):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(48, width), nn.ReLU(), nn.Linear(width, 1))


def test_weights_their_gradients_and_moments_are_counted() -> None:
    found = estimate(Wide(10_000), ONE, PLAN)
    parameters = 48 * 10_000 + 10_000 + 10_000 + 1
    assert found.fixed == pytest.approx(4 * 4 * parameters, rel=0.1)


def test_what_is_frozen_has_no_gradient() -> None:
    objective = Wide(10_000)
    objective.model.requires_grad_(False)
    objective.model[3].requires_grad_(True)  # type: ignore[index]
    assert estimate(objective, ONE, PLAN).fixed < estimate(Wide(10_000), ONE, PLAN).fixed / 3


def test_a_moving_average_and_a_teacher_are_counted() -> None:
    objective = Wide(10_000)
    plain = estimate(objective, ONE, PLAN).fixed
    assert estimate(objective, ONE, PLAN.model_copy(update={"ema": 0.9})).fixed == pytest.approx(
        plain * 5 / 4, rel=0.05
    )
    assert estimate(objective, ONE, PLAN, teachers=[objective.model]).fixed == plain
    assert estimate(objective, ONE, PLAN, teachers=[Wide(10_000).model]).fixed == pytest.approx(plain * 5 / 4, rel=0.05)


def test_an_image_takes_what_is_kept_for_its_gradient() -> None:
    small, large = (estimate(Wide(width), ONE, PLAN).image for width in (10_000, 100_000))
    assert small == pytest.approx(1.2 * 4 * 10_000, rel=0.1)
    assert large == pytest.approx(10 * small, rel=0.1)


def test_what_fits_passes() -> None:
    check(Estimate(fixed=100 * MIB, image=10 * MIB, batch=4, available=140 * MIB))
    check(Estimate(fixed=100 * MIB, image=10 * MIB, batch=4, available=None))


def test_what_does_not_fit_is_refused_with_the_batch_that_would() -> None:
    with pytest.raises(Misconfigured, match=r"about 180 MiB of 140 MiB .*--batch 4 it fits"):
        check(Estimate(fixed=100 * MIB, image=10 * MIB, batch=8, available=140 * MIB))
    with pytest.raises(Misconfigured, match=r"Not even one image fits; smaller"):
        check(Estimate(fixed=100 * MIB, image=10 * MIB, batch=8, available=100 * MIB), "; smaller")
