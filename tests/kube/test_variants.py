"""A real API server and KEDA's webhook accept the variants for bundles, GPUs and backfills, and their pods."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import pytest
import yaml

from tests.kube.control_plane import NAMESPACE, ControlPlane, Refused
from tests.unit.deploy.tools import Manifest, overlay

pytestmark = [pytest.mark.kube, pytest.mark.timeout(3600)]

VARIANTS = [
    ("cpu", ()),
    ("cpu", ("bundles", "bundles-job")),
    ("cpu", ("bundles-image",)),
    ("cpu", ("backfill", "egress", "kafka-oauth")),
    ("cpu", ("lanes", "kafka-msk-iam")),
    ("gpu", ("kafka-oauth", "lanes", "measured-rate", "gpu-processes")),
    ("cpu", ("fixed-size", "kafka-msk-iam", "web-identity", "index")),
    ("gpu", ("gpu-mig", "gpu-nodes", "gpu-runtime-class")),
    ("gpu", ("gpu-time-slicing", "backfill")),
]
OF_THE_CLUSTER = [
    {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"},
    {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "tagstream-backfill"},
        "value": -10,
        "preemptionPolicy": "Never",
    },
]
"""The objects that a pod names and needs."""


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> Iterator[ControlPlane]:
    given = yaml.safe_dump_all(OF_THE_CLUSTER)
    plane.kubectl("apply", "-f", "-", given=given)
    yield plane
    plane.kubectl("delete", "-f", "-", "--ignore-not-found", given=given)


def ask(server: ControlPlane, *manifests: Manifest) -> None:
    server.kubectl("create", "--dry-run=server", "-f", "-", given=yaml.safe_dump_all(manifests))


def pods(manifests: Sequence[Manifest]) -> Iterator[Manifest]:
    for manifest in manifests:
        if manifest["kind"] in {"Deployment", "Job"}:
            template: dict[str, Any] = manifest["spec"]["template"]
            metadata = {**template["metadata"], "namespace": NAMESPACE, "generateName": "asked-"}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


@pytest.mark.parametrize(("base", "components"), VARIANTS, ids=str)
def test_the_api_server_takes_the_manifests_and_their_pods(
    server: ControlPlane, base: str, components: Sequence[str]
) -> None:
    manifests = overlay(base, *components)
    ask(server, *(each for each in manifests if each["kind"] != "PriorityClass"))
    assert server.warned == []
    for pod in pods(manifests):
        ask(server, pod)
        assert server.warned == []


def test_a_pod_that_may_do_more_than_restricted_ones_is_refused(server: ControlPlane) -> None:
    (pod,) = deepcopy(list(pods(overlay("cpu"))))
    del pod["spec"]["securityContext"]["seccompProfile"]
    with pytest.raises(Refused, match="violates PodSecurity"):
        ask(server, pod)
