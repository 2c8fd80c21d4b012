"""What happens to pods: rollouts, drains, lost nodes, stalls, crashes. Nothing is lost, doubled or out of order."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kube.node import Node
from tests.kube.report import Report
from tests.kube.rollout import ONE_PROCESSOR, Patch, Rollout, done, in_the_end, settled
from tests.support.waiting import meanwhile
from tests.support.worker_process import Site, photo

pytestmark = [pytest.mark.kube, pytest.mark.timeout(3600)]

PHOTOS = 40
FIXED = ("fixed-size",)
"""Two workers and no autoscaler: these tests are about the Deployment itself."""


@pytest.fixture
def two(rollout: Rollout) -> Rollout:
    rollout.apply(components=FIXED, patches=[ONE_PROCESSOR])
    in_the_end(lambda: rollout.rolled_out() and len(rollout.ready()) == 2, rollout.said)
    return rollout


@contextmanager
def traffic(site: Site, report: Report, what: str) -> Iterator[None]:
    """Twenty events a second while the block runs; afterwards each has its outcome, and the report says how long a
    partition was without any."""
    for number in range(PHOTOS):
        site.upload(f"{number}.jpg", photo(number))
    events = [(site.own(f"{number}.jpg"), ()) for number in range(10)]
    with meanwhile(lambda: site.send(events), 0.5):
        in_the_end(lambda: len(site.outcomes()) > 20)
        yield
    in_the_end(lambda: done(site))
    settled(site)
    report.dark(what, site)


def test_a_changed_setting_rolls_the_workers_out_without_a_gap(two: Rollout, site: Site, report: Report) -> None:
    before = {pod.name for pod in two.pods()}
    with traffic(site, report, "rolling update"):
        two.apply(components=FIXED, patches=[ONE_PROCESSOR], TAGSTREAM_MAX_BATCH="4")
        in_the_end(lambda: two.rolled_out() and not before & {pod.name for pod in two.pods()}, two.said)
    left = [pod for pod in two.node.left if pod.name in before]
    assert [pod.exits for pod in left] == [[0], [0]], two.said()


def test_a_rollout_that_can_not_start_takes_no_worker_away(two: Rollout, site: Site, report: Report) -> None:
    before = {pod.name for pod in two.pods()}
    with traffic(site, report, "rollout that crashes"):
        two.apply(components=FIXED, patches=[ONE_PROCESSOR], TAGSTREAM_TAGGER="/bundles/nosuch")
        in_the_end(lambda: any(pod.restarts >= 2 for pod in two.pods()), two.said)
        assert before <= {pod.name for pod in two.ready()}
        two.plane.kubectl("--namespace", "tagstream", "rollout", "undo", "deployment/tagstream")
        in_the_end(lambda: two.rolled_out() and before == {pod.name for pod in two.pods()}, two.said)


def test_a_drained_node_hands_its_workers_over(two: Rollout, site: Site, report: Report, tmp_path: Path) -> None:
    before = {pod.name for pod in two.pods()}
    with Node(two.plane.api, tmp_path / "other", f"{two.node.name}-other") as other:
        two.add(other)
        with traffic(site, report, "node drain"):
            two.plane.kubectl("drain", two.node.name, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=600s")
            in_the_end(lambda: two.rolled_out() and len(other.pods) == 2, two.said)
        left = [pod for pod in two.node.left if pod.name in before]
        assert [pod.exits for pod in left] == [[0], [0]], two.said()
        two.delete()


def test_a_spot_machine_that_is_taken_back_costs_no_image(
    two: Rollout, site: Site, report: Report, tmp_path: Path
) -> None:
    with Node(two.plane.api, tmp_path / "other", f"{two.node.name}-other") as other:
        two.add(other)
        with traffic(site, report, "spot reclaim"):
            two.node.vanish()
            two.plane.kubectl("delete", "node", two.node.name)
            in_the_end(lambda: two.rolled_out() and len(other.pods) == 2, two.said)
        two.delete()


def test_a_worker_that_stands_still_is_restarted_by_its_probe(two: Rollout, site: Site, report: Report) -> None:
    soon = Patch(
        "Deployment",
        [
            {"op": "replace", "path": "/spec/template/spec/containers/0/livenessProbe/periodSeconds", "value": 2},
            {"op": "replace", "path": "/spec/template/spec/terminationGracePeriodSeconds", "value": 5},
        ],
    )
    two.apply(components=FIXED, patches=[ONE_PROCESSOR, soon])
    in_the_end(lambda: two.rolled_out() and len(two.pods()) == 2, two.said)
    with traffic(site, report, "stalled worker"):
        pod = two.ready()[0]
        assert pod.pid is not None
        os.kill(pod.pid, signal.SIGSTOP)
        in_the_end(lambda: pod.restarts == 1 and pod.ready, two.said)
    assert pod.exits == [-signal.SIGKILL]


def test_a_model_that_loads_for_long_is_not_killed(rollout: Rollout) -> None:
    """A minute and a half: without the startup probe the liveness probe would have ended it after one."""
    command = ["sh", "-c", "sleep 90; exec tagstream run"]
    slow = Patch("Deployment", [{"op": "add", "path": "/spec/template/spec/containers/0/command", "value": command}])
    rollout.apply(components=FIXED, patches=[ONE_PROCESSOR, slow])
    in_the_end(lambda: len(rollout.ready()) == 2, rollout.said)
    assert [pod.restarts for pod in rollout.pods()] == [0, 0]
