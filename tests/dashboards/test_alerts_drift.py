"""The alerts about drift fire when a model's answers change; a week is three minutes here."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tagstream_testing.local.scratch import Scratch
from tests.chaos.unruly import Unruly, image_of
from tests.dashboards.watching import RULES, assert_fires, assert_over, firing, place
from tests.fixtures import Stack, up_or_skip
from tests.support.prometheus import Prometheus, shortened
from tests.support.waiting import eventually, meanwhile
from tests.support.worker_process import Site, worker

pytestmark = [pytest.mark.dashboards, pytest.mark.timeout(1_500)]

BY = 3_600
WEEK_S = 7 * 24
DRIFT = {"TagstreamTagsDrifted", "TagstreamUntaggedImages", "TagstreamScoresDrifted", "TagstreamCaptionsDrifted"}


@pytest.fixture
def watched(scratch: Scratch) -> Iterator[Prometheus]:
    rules = shortened(RULES, BY, scratch.path / "shortened-drift.yaml")
    yield from up_or_skip(Prometheus(scratch.path / "watching-drift", rules))


def test_a_model_with_changed_answers(stack: Stack, scratch: Scratch, watched: Prometheus) -> None:
    site, unruly = Site(stack, "alerts-drift"), Unruly(scratch.path / "alerts-drift")
    with worker(site, "drift", scratch.path, **unruly.settings(captions=True)) as process:
        watched.scrape(drift=[place(process)])
        with the_same_again_and_again(site):
            tagged = "job:tagstream_tagged_images:ratio_increase6h"
            eventually(lambda: watched.now(f"{tagged} offset {WEEK_S + 20}s"), 600, process.said)
            assert firing(watched) & DRIFT == set()
            unruly.order(dim=0.6)
            assert_fires(watched, "TagstreamScoresDrifted")
            assert firing(watched) & DRIFT == {"TagstreamScoresDrifted"}
            unruly.order(dim=0.1)
            assert_fires(watched, "TagstreamTagsDrifted", "TagstreamUntaggedImages", "TagstreamCaptionsDrifted")
            unruly.order()
            assert_over(watched, *DRIFT)


@contextmanager
def the_same_again_and_again(site: Site) -> Iterator[None]:
    """While the body runs, the same four red images twice a second; there is no cache that knows them."""
    keys = [f"{number}.png" for number in range(4)]
    for number, key in enumerate(keys):
        site.upload(key, image_of((255, 0, 0), number))
    with meanwhile(lambda: site.send([(site.own(key), ()) for key in keys]), every_s=0.5):
        yield
