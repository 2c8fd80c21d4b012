"""A backfill's workers live beside the others: nothing of one is the other's, and they make room."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

from tests.unit.deploy.tools import (
    K8S,
    OVERLAYS,
    ROOT,
    Manifest,
    kustomize,
    overlay,
    pod_environment,
    the,
    worker_of,
)

pytestmark = pytest.mark.slow

OTHERS = ("kafka-sasl-tls", "otlp", "egress", "bundles")
SECRETS = {"kafka-user": "tagstream"}
DNS = {"k8s-app": "kube-dns"}

Both: TypeAlias = tuple[Sequence[Manifest], Sequence[Manifest]]
"""The live workers' manifests and a backfill's."""


@pytest.fixture(params=OVERLAYS)
def both(request: pytest.FixtureRequest) -> Both:
    return overlay(request.param, *OTHERS), overlay(request.param, *OTHERS, "backfill")


def selectors(value: Any) -> list[dict[str, str]]:
    """Every `matchLabels` below."""
    if isinstance(value, list):
        return [found for each in value for found in selectors(each)]
    if not isinstance(value, dict):
        return []
    own = [value["matchLabels"]] if "matchLabels" in value else []
    return own + [found for each in value.values() for found in selectors(each)]


def labels(manifests: Sequence[Manifest]) -> dict[str, str]:
    """Of the pods."""
    found: dict[str, str] = the(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    return found


def test_no_name_is_that_of_a_live_manifest(both: Both) -> None:
    live, backfill = ({(each["kind"], each["metadata"]["name"]) for each in manifests} for manifests in both)
    assert not live & backfill


def test_no_selector_chooses_a_pod_of_the_other(both: Both) -> None:
    for manifests, others in (both, both[::-1]):
        ours = [each for each in selectors(list(manifests)) if "app.kubernetes.io/name" in each]
        assert len(ours) == 5
        for selector in ours:
            assert selector.items() <= labels(manifests).items()
            assert not selector.items() <= labels(others).items()


def test_its_workers_may_call_what_the_others_may(both: Both) -> None:
    live, backfill = (the(manifests, "NetworkPolicy")["spec"]["egress"] for manifests in both)
    assert live == backfill
    assert DNS in selectors(backfill)


def test_it_has_a_topic_and_a_group_of_its_own_and_the_same_results(
    both: Both,
) -> None:
    live, backfill = (pod_environment(manifests, SECRETS) for manifests in both)
    changed = {name for name in live if name.startswith("TAGSTREAM_") and live[name] != backfill[name]}
    assert changed == {"TAGSTREAM_GROUP", "TAGSTREAM_INPUT_TOPICS"}


def test_a_users_patch_names_another_topic(tmp_path: Path) -> None:
    said = (ROOT / "docs" / "guide" / "deploying.md").read_text()
    found = re.search(r"<!-- example:patch -->\n```yaml\n(.*?)```", said, re.DOTALL)
    assert found is not None
    here = os.path.relpath(K8S, tmp_path.resolve())
    own = {
        "resources": [f"{here}/overlays/cpu"],
        "components": [f"{here}/components/backfill"],
        **yaml.safe_load(found[1]),
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(own))
    assert pod_environment(kustomize(tmp_path), SECRETS)["TAGSTREAM_INPUT_TOPICS"] == "scans.backfill"


def test_its_autoscaler_scales_it_and_logs_in_by_its_own_manifest(
    both: Both,
) -> None:
    _, backfill = both
    spec = the(backfill, "ScaledObject")["spec"]
    assert spec["scaleTargetRef"]["name"] == the(backfill, "Deployment")["metadata"]["name"]
    (trigger,) = spec["triggers"]
    assert trigger["authenticationRef"]["name"] == the(backfill, "TriggerAuthentication")["metadata"]["name"]
    assert spec["minReplicaCount"] == 0


def test_every_pod_without_a_class_goes_before_its_pods(
    both: Both,
) -> None:
    live, backfill = both
    priority = the(backfill, "PriorityClass")
    assert priority["value"] < 0
    assert priority["preemptionPolicy"] == "Never"
    assert not priority.get("globalDefault")
    assert the(backfill, "Deployment")["spec"]["template"]["spec"]["priorityClassName"] == priority["metadata"]["name"]
    assert "priorityClassName" not in the(live, "Deployment")["spec"]["template"]["spec"]


def test_its_quota_counts_its_pods_alone_and_holds_all_of_them(
    both: Both,
) -> None:
    _, backfill = both
    quota = the(backfill, "ResourceQuota")["spec"]
    (scope,) = quota["scopeSelector"]["matchExpressions"]
    assert scope == {
        "scopeName": "PriorityClass",
        "operator": "In",
        "values": [the(backfill, "PriorityClass")["metadata"]["name"]],
    }
    most = the(backfill, "ScaledObject")["spec"]["maxReplicaCount"]
    asked = worker_of(backfill)["resources"]["requests"]
    hard = quota["hard"]
    assert int(hard["pods"]) == most
    assert int(hard["requests.cpu"]) >= most * int(asked["cpu"])
    assert int(hard["requests.memory"][:-2]) >= most * int(asked["memory"][:-2])
    assert int(hard["requests.nvidia.com/gpu"]) >= most * int(asked.get("nvidia.com/gpu", 0))


def test_a_rollout_of_all_its_workers_stays_within_the_quota(
    both: Both,
) -> None:
    _, backfill = both
    assert the(backfill, "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
