"""The report of a plan, for the images that it needs."""

from collections import Counter

import pytest

from workers.retag.planning import Found, Kind
from workers.retag.report import PlanReport, Prices


@pytest.mark.parametrize(
    ("images", "size", "told"),
    [
        (4, 5_000, "0.02 MB; 0.2 device minutes"),
        (100, 100_000, "0.01 GB; 5.0 device minutes"),
        (120_000, 100_000, "12.00 GB; 100.0 device hours"),
    ],
)
def test_bytes_and_hours_are_shown_in_fitting_units(images: int, size: int, told: str) -> None:
    kind = Kind("image", "no-scores")
    found = Found(Counter({kind: images}), Counter({kind: images * size}))
    *_, line = PlanReport("enriched", 1, True, images, 0, found, Prices(image_s=3)).lines()
    assert line == f"to fetch: {told}"
