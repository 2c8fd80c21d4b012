"""Results of a training: memory counted beforehand, a bundle with a card; and its commands."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tagstream_train.cli.fit import FitOptions, _run
from tagstream_train.data.loader import Batch
from tagstream_train.data.samples import Sample
from tagstream_train.export import Card, card_of, export
from tagstream_train.loop import Plan
from tagstream_train.memory import MIB, Estimate, check, estimate
from tests.unit.models.small import small_bundle
from training.tests.unit.runs import Parity, image
from workers.errors import Misconfigured
from workers.models.bundle import Bundle

PLAN = Plan(epochs=1, batch=4)
ONE = Batch(torch.stack([image(0)] * 3), tuple(Sample(image=f"{i}.png") for i in range(3)))


class Wide(Parity):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(48, width), nn.ReLU(), nn.Linear(width, 1))


@pytest.mark.slow
def test_weights_their_gradients_and_moments_are_counted() -> None:
    found = estimate(Wide(10_000), ONE, PLAN)
    parameters = 48 * 10_000 + 10_000 + 10_000 + 1
    assert found.fixed == pytest.approx(4 * 4 * parameters, rel=0.1)


def test_a_frozen_parameter_has_no_gradient() -> None:
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


def test_an_image_takes_the_memory_kept_for_its_gradient() -> None:
    small, large = (estimate(Wide(width), ONE, PLAN).image for width in (10_000, 100_000))
    assert small == pytest.approx(1.4 * 4 * 10_000, rel=0.1)
    assert large == pytest.approx(10 * small, rel=0.1)


def test_images_that_are_loaded_ahead_are_counted() -> None:
    large = Batch(torch.zeros(1, 3, 400, 400), ONE.samples[:1])
    found = estimate(Parity(), ONE, PLAN), estimate(_Blind(), large, PLAN)
    assert found[1].image - found[0].image >= 3 * 4 * 3 * 400 * 400


class _Blind(Parity):
    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        return super().losses(Batch(batch.images[:, :, :4, :4], batch.samples))


def test_what_does_not_fit_is_refused_with_the_batch_that_would() -> None:
    with pytest.raises(Misconfigured, match=r"about 180 MiB of 140 MiB .*--batch 4 it fits"):
        check(Estimate(fixed=100 * MIB, image=10 * MIB, batch=8, available=140 * MIB))
    with pytest.raises(Misconfigured, match=r"Not even one image fits; smaller"):
        check(Estimate(fixed=100 * MIB, image=10 * MIB, batch=8, available=100 * MIB), "; smaller")


CARD = Card(
    command="train fit",
    data={"name": "pets", "absent": "unknown"},
    plan={"epochs": 3},
    steps=30,
    images=960,
    metrics={"map": 0.75, "old_map": None},
    parents={"ram": "0" * 64},
)


def _exported(parent: Bundle, out: Path) -> Bundle:
    return export(out, parent.manifest, weights=parent.weights(), labels=parent.labels, card=CARD)


@pytest.mark.slow
def test_a_bundle_keeps_its_card(tmp_path: Path) -> None:
    made = _exported(small_bundle("ram", tmp_path / "parent"), tmp_path / "made")
    assert card_of(Bundle.open(made.folder)) == CARD
    made.verify()


@pytest.mark.slow
def test_a_card_changes_nothing_about_the_digest(tmp_path: Path) -> None:
    parent = small_bundle("ram_plus", tmp_path / "parent")
    assert card_of(parent) is None
    assert _exported(parent, tmp_path / "made").digest == parent.digest


def test_a_fit_repeats_its_recorded_options(tmp_path: Path) -> None:
    data, other = tmp_path / "set", tmp_path / "other"
    run = _run(FitOptions(data=data, parent="compact", validation_set=other, what="lora", precision_floor=0.9))
    assert (run.data, run.parent, run.validation_set, run.groups) == (str(data), "compact", str(other), None)
    assert (run.precision_floor, run.plan.epochs, run.plan.lr) == (0.9, 10, 3e-4)
