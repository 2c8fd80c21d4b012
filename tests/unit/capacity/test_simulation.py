"""The simulation of one worker agrees with the formulas where they tell something, and goes further."""

from __future__ import annotations

from dataclasses import replace

import pytest

from workers.capacity import BUILT_IN, CapacityPlan, Demand, MachineProfile, saturated, simulate

ON_A_GPU = BUILT_IN["ram-bf16"].model_copy(
    update={"device": "cuda", "single_s": 0.01, "batch": 32, "batch_s": 32 / 280, "device_cores": 1}
)
ON_A_FASTER_ONE = ON_A_GPU.model_copy(update={"single_s": 0.0005, "batch_s": 32 / 2_000})
PROFILES = {**BUILT_IN, "on a gpu": ON_A_GPU, "on a faster one": ON_A_FASTER_ONE}


def plan(profile: MachineProfile, cores: int = 8, megapixels: float = 2.0, known: float = 0.0) -> CapacityPlan:
    return CapacityPlan(Demand(10**6, megapixels=megapixels, cores=cores, known=known), profile)


@pytest.mark.parametrize("known", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("cores", [2, 16])
@pytest.mark.parametrize("name", PROFILES)
def test_with_more_than_it_can_do_a_worker_does_what_the_formula_says(name: str, cores: int, known: float) -> None:
    found = plan(PROFILES[name], cores, 12.0 if name == "on a gpu" else 2.0, known)
    new = 600  # so many that the last batch and chance count for little
    assert saturated(found, round(new / (1 - known))).rate == pytest.approx(found.rate, rel=0.06)


def test_below_that_it_does_what_comes_and_images_wait_longer_the_busier_it_is() -> None:
    found = plan(BUILT_IN["compact"])
    calm, busy = (simulate(found, share * found.rate, 1_500) for share in (0.3, 0.9))
    assert calm.rate == pytest.approx(0.3 * found.rate, rel=0.1)
    assert calm.quantile(0.5) < busy.quantile(0.5)
    assert calm.quantile(0.99) < busy.quantile(0.99)


def test_an_image_alone_waits_for_its_own_steps_and_nothing_else() -> None:
    profile = BUILT_IN["compact"].model_copy(update={"decoded": BUILT_IN["compact"].decoded[:1]})
    found = plan(profile, cores=4, megapixels=0.3)
    steps = profile.known_core_s + profile.new_core_s + found.decode_core_s + profile.batch_core_s(1) / 4
    alone = simulate(found, 0.01, 20)
    assert alone.waits == pytest.approx([steps] * 20)


def test_a_known_image_waits_for_no_model() -> None:
    found = plan(BUILT_IN["ram-fp32"], known=0.9)
    waits = simulate(found, 0.01, 400).waits
    assert waits[len(waits) // 2] == pytest.approx(BUILT_IN["ram-fp32"].known_core_s)
    assert waits[-1] > 0.2


def test_every_image_is_told_of_once() -> None:
    found = plan(ON_A_GPU, cores=3)
    assert len(simulate(found, 2 * found.rate, 777).waits) == 777


def test_the_same_seed_gives_the_same_and_another_one_another() -> None:
    found = plan(BUILT_IN["compact"])
    first, again, other = (simulate(found, 50, 200, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_quantiles_are_those_of_the_waits() -> None:
    found = replace(simulate(plan(BUILT_IN["compact"]), 50, 10), waits=[float(number) for number in range(1, 101)])
    assert [found.quantile(share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
