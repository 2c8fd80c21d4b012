"""The chart on a real API server: its pods are restricted ones, and a release's whole life loses no record."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.kube.control_plane import NAMESPACE, ControlPlane
from tests.kube.helm import CHART, NAME, helm, rendered
from tests.kube.report import Report
from tests.kube.rollout import Rollout, in_the_end
from tests.kube.test_chart import ALL
from tests.kube.test_lives_of_pods import traffic
from tests.kube.test_variants import ask, pods
from tests.support.worker_process import Site
from workers.backends.kafka import describe_topics

pytestmark = [pytest.mark.kube, pytest.mark.timeout(3600)]

OF_OPERATORS = {"ExternalSecret", "PodMonitor", "PrometheusRule"}
"""Kinds whose operators the control plane lacks."""


@pytest.mark.parametrize("values", [{}, {"device": "gpu"}, ALL], ids=["cpu", "gpu", "all"])
def test_the_api_server_takes_the_charts_objects_and_its_pods_as_restricted_ones(
    plane: ControlPlane, values: Mapping[str, Any]
) -> None:
    manifests = [each for each in rendered(values) if each["kind"] not in OF_OPERATORS]
    ask(plane, *manifests)
    assert plane.warned == []
    for pod in pods(manifests):
        ask(plane, pod)
        assert plane.warned == []


@pytest.fixture
def released(rollout: Rollout) -> Iterator[Rollout]:
    rollout.make_secret()
    yield rollout
    if NAME in on(rollout, "list", "--short").split():
        on(rollout, "uninstall", NAME, "--wait")


def on(rollout: Rollout, *command: str, values: Mapping[str, Any] | None = None) -> str:
    return helm(*command, "--kubeconfig", str(rollout.plane.server.kubeconfig), values=values)


def test_a_release_is_installed_upgraded_rolled_back_and_uninstalled_without_a_lost_record(
    released: Rollout, site: Site, report: Report
) -> None:
    made = f"{site.name}.corrections"
    settings = {**released.own_settings(), "TAGSTREAM_CORRECTIONS_TOPIC": made}
    values = {
        "settings": settings,
        "worker": {"resources": {"requests": {"cpu": "1"}}},
        "keda": {"minReplicaCount": 2, "maxReplicaCount": 2},
        "topicsJob": {"enabled": True},
    }
    on(released, "install", NAME, str(CHART), "--wait", "--wait-for-jobs", "--timeout", "10m", values=values)
    in_the_end(lambda: released.rolled_out() and len(released.ready()) == 2, released.said)
    assert made in describe_topics(site.stack.kafka.servers, {made: ()})

    with traffic(site, report, "helm upgrade, then rollback"):
        first = {pod.name for pod in released.pods()}
        changed = {**values, "settings": {**settings, "TAGSTREAM_MAX_BATCH": 4}}
        on(released, "upgrade", NAME, str(CHART), values=changed)
        in_the_end(lambda: rolled_on(released, first), released.said)
        second = {pod.name for pod in released.pods()}
        on(released, "rollback", NAME)
        in_the_end(lambda: rolled_on(released, second), released.said)
    left = [pod for pod in released.node.left if pod.name in first | second]
    assert [pod.exits for pod in left] == [[0]] * 4, released.said()
    assert site.audit().proved

    on(released, "uninstall", NAME, "--wait")
    in_the_end(lambda: not released.pods(), released.said)
    kinds = ",".join({each["kind"] for each in rendered(values)})
    names = released.plane.kubectl("--namespace", NAMESPACE, "get", kinds, "--output", "name").split()
    assert [name for name in names if "tagstream" in name.partition("/")[2]] == []


def rolled_on(rollout: Rollout, before: set[str]) -> bool:
    return rollout.rolled_out() and not before & {pod.name for pod in rollout.pods()}
