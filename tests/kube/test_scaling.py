"""Lag makes more workers, and its end fewer; nothing is lost, doubled or out of order meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.kube.report import Report
from tests.kube.rollout import ONE_PROCESSOR, Patch, Rollout, done, in_the_end, settled, turns
from tests.support.waiting import meanwhile
from tests.support.worker_process import Site, photo

pytestmark = [pytest.mark.kube, pytest.mark.timeout(3600)]

WAITING, PHOTOS = 3_000, 300

FEWER = {"stabilizationWindowSeconds": 20, "policies": [{"type": "Percent", "value": 50, "periodSeconds": 15}]}
QUICK = Patch(
    "ScaledObject",
    {"maxReplicaCount": 4, "advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleDown": FEWER}}}},
)
"""As in the overlay, with shorter times."""
THRESHOLD = Patch("ScaledObject", [{"op": "replace", "path": "/spec/triggers/0/metadata/lagThreshold", "value": "200"}])


@contextmanager
def backlog(site: Site) -> Iterator[None]:
    """This many events wait while the block runs, however fast the workers are."""
    for number in range(PHOTOS):
        site.upload(f"{number}.jpg", photo(number, side=256))
    events = [(site.own(f"{number % PHOTOS}.jpg"), ()) for number in range(WAITING)]
    site.send(events)
    with meanwhile(lambda: site.send(events[site.behind() :]), 1.0):
        yield


def test_lag_makes_workers_and_its_end_takes_them_away(rollout: Rollout, site: Site, report: Report) -> None:
    rollout.apply(patches=[QUICK, THRESHOLD, ONE_PROCESSOR])
    in_the_end(lambda: len(rollout.ready()) == 1, rollout.said)
    in_the_end(rollout.scaled_object_ready, rollout.plane.operator.log_tail)
    with rollout.recorded() as samples:
        with backlog(site):
            in_the_end(lambda: len(rollout.ready()) >= 3, rollout.said)
        in_the_end(lambda: done(site), rollout.said)
        in_the_end(lambda: rollout.replicas() == 1 and len(rollout.pods()) == 1, rollout.said)
    assert max(sample.wanted for sample in samples) <= 4
    assert turns(samples) == 1, "the number of workers went up and down more than once"
    left = [pod for pod in rollout.node.left if pod.exits]
    assert left
    assert all(pod.exits == [0] for pod in left), rollout.said()
    settled(site)
    report.scaling(samples)


def test_a_worker_in_a_crash_loop_is_not_taken_for_one_that_is_done(rollout: Rollout, site: Site) -> None:
    rollout.apply(patches=[QUICK, THRESHOLD, ONE_PROCESSOR], TAGSTREAM_TAGGER="/bundles/nosuch")
    in_the_end(rollout.scaled_object_ready, rollout.plane.operator.log_tail)
    site.send([(site.own(f"{number}.jpg"), ()) for number in range(600)])
    in_the_end(lambda: rollout.replicas() >= 3, rollout.plane.operator.log_tail)
    with rollout.recorded() as samples:
        in_the_end(lambda: sum(pod.restarts for pod in rollout.pods()) >= 9, rollout.said)
    assert min(sample.wanted for sample in samples) >= 3


def test_no_worker_runs_while_there_is_no_event(rollout: Rollout, site: Site) -> None:
    soon = Patch("ScaledObject", {"pollingInterval": 5, "cooldownPeriod": 10})
    rollout.apply(components=["scale-to-zero"], patches=[soon, ONE_PROCESSOR])
    in_the_end(lambda: rollout.replicas() == 0 and not rollout.pods(), rollout.plane.operator.log_tail)
    site.upload("0.jpg", photo(0))
    site.send([(site.own("0.jpg"), ())])
    in_the_end(lambda: len(site.outcomes()) == 1, rollout.said)
    in_the_end(lambda: rollout.replicas() == 0 and not rollout.pods(), rollout.plane.operator.log_tail)
    assert rollout.node.left[-1].exits == [0], rollout.said()
    settled(site)
