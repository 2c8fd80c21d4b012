"""The report of a plan, for the images that it needs."""

from collections import Counter

import pytest

from workers.retag.planning import Found, Kind
from workers.retag.report import PlanReport


@pytest.mark.parametrize(("images", "size", "told"), [(4, 5_000, "0.02 MB"), (120_000, 100_000, "12.00 GB")])
def test_the_bytes_to_fetch_are_told(images: int, size: int, told: str) -> None:
    kind = Kind("image", "no-scores")
    found = Found(Counter({kind: images}), Counter({kind: images * size}))
    *_, line = PlanReport("enriched", 1, True, images, 0, found).lines()
    assert line == f"to fetch: {told}"
