"""The measure by which the soak judges memory."""

from __future__ import annotations

import random

import pytest

from tests.chaos.memory import Growth


def after(pictures: int, leaks_mb: float) -> Growth:
    """Of a family that holds up to 80 MB more for a moment, and loses so much for good per 10,000 pictures."""
    chance = random.Random(3)
    growth = Growth(0, lambda: None)
    for done in range(200, pictures, 200):
        in_hand = 80 * chance.random() ** 2 * (done % 1_000 > 0)
        growth.samples.append((done, int(1e6 * (900 + in_hand + leaks_mb * done / 10_000))))
    return growth


@pytest.mark.parametrize("leaks_mb", [0.0, 2.0, 30.0])
def test_a_leak_is_told_from_ups_and_downs(leaks_mb: float) -> None:
    assert after(45_000, leaks_mb).mb_per_10_000() == pytest.approx(leaks_mb, abs=0.3)


def test_the_first_third_does_not_count() -> None:
    growth = Growth(0, lambda: None)
    growth.samples = [(done, 10**8 if done < 1_000 else 10**9) for done in range(0, 3_001, 50)]
    assert growth.pictures == 2_000
    assert growth.mb_per_10_000() == pytest.approx(0, abs=1e-6)
