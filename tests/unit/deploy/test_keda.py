"""Every overlay's trigger: names, numbers and formula. What KEDA makes of them, tests/kube asks KEDA itself."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.unit.deploy.test_kubernetes import LOGINS, VARIANTS, read_settings, secrets
from tests.unit.deploy.tools import OVERLAYS, ROOT, Manifest, overlay, pod_environment, the, worker_of

pytestmark = pytest.mark.slow

SCALED = [(base, names) for base, names in VARIANTS if "fixed-size" not in names]


def scaled(*components: str) -> Manifest:
    found: Manifest = the(overlay("cpu", *components), "ScaledObject")["spec"]
    return found


def trigger(manifests: Sequence[Manifest], kind: str = "kafka") -> dict[str, str]:
    (found,) = [each for each in the(manifests, "ScaledObject")["spec"]["triggers"] if each["type"] == kind]
    return dict(found["metadata"])


@pytest.mark.parametrize(("base", "components"), SCALED, ids=str)
def test_a_trigger_scales_its_own_workers_by_their_topics_with_their_secrets(
    base: str, components: Sequence[str], tmp_path: Path
) -> None:
    manifests, read = overlay(base, *components), read_settings(overlay(base, *components), tmp_path, *components)
    spec, of_kafka = the(manifests, "ScaledObject")["spec"], trigger(manifests)
    name = the(manifests, "Deployment")["metadata"]["name"]
    assert spec["scaleTargetRef"] == {"name": name, "envSourceContainerName": worker_of(manifests)["name"]}
    assert spec["minReplicaCount"] == (0 if {"scale-to-zero", "backfill"} & set(components) else 1)
    assert spec["minReplicaCount"] < spec["maxReplicaCount"]
    kept = {"failureThreshold": 3, "behavior": "currentReplicasIfHigher", "replicas": 1 if "backfill" in name else 2}
    assert spec["fallback"] == kept, "with 0 KEDA takes an error of Kafka for no lag"
    keys = secrets(components)["tagstream"]
    environment = pod_environment(manifests, keys)
    named = {key: environment[name] for key, name in of_kafka.items() if key.endswith("FromEnv")}
    assert named["bootstrapServersFromEnv"].split(",") == [*read.kafka_servers]
    assert named["consumerGroupFromEnv"] == read.group
    assert named.get("topicFromEnv") == (None if "several-topics" in components else ",".join(read.topics))
    assert of_kafka["offsetResetPolicy"] == read.offset_reset
    login = the(manifests, "TriggerAuthentication")
    asked = {each["parameter"]: each["key"] for each in login["spec"].get("secretTargetRef", ())}
    assert set(asked.values()) <= keys.keys()
    referred = spec["triggers"][0].get("authenticationRef")
    assert referred == ({"name": login["metadata"]["name"]} if LOGINS & set(components) else None)


@pytest.mark.parametrize("base", OVERLAYS)
def test_a_partition_without_a_commit_for_a_while_counts_like_the_others(base: str) -> None:
    """With excludePersistentLag KEDA would take a worker that commits seldom, or crashes, for one without work."""
    assert trigger(overlay(base)).get("excludePersistentLag", "false") == "false"


@pytest.mark.parametrize("login", [(), *((name,) for name in sorted(LOGINS))], ids="+".join)
def test_a_fixed_size_needs_no_autoscaler_wherever_it_is_listed(login: tuple[str, ...]) -> None:
    for components in ((*login, "fixed-size"), ("fixed-size", *login)):
        kinds = {manifest["kind"] for manifest in overlay("cpu", *components)}
        assert not {"ScaledObject", "TriggerAuthentication"} & kinds


@pytest.mark.parametrize("partitions", [12, 24, 48, 120])
def test_on_the_way_down_no_worker_has_twice_the_partitions_of_another(partitions: int) -> None:
    """Kubernetes' autoscaler lets a percentage go at most, rounded to more that go."""
    (policy,) = scaled()["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["policies"]
    assert policy["type"] == "Percent"
    even = [number for number in range(1, partitions + 1) if partitions % number == 0]
    for wanted in even:
        workers = partitions
        while workers > wanted:
            workers = max(wanted, int(workers * (1 - policy["value"] / 100)))
            most, least = -(-partitions // workers), partitions // workers
            assert most < 2 * least or workers == 1


def test_the_formula_knows_every_number_of_workers_that_shares_the_partitions_evenly() -> None:
    spec = scaled("measured-rate")
    formula, partitions = spec["advanced"]["scalingModifiers"]["formula"], spec["maxReplicaCount"]
    (numbers,) = re.findall(r"find\(\[([0-9, ]+)\]", formula)
    assert [int(each) for each in numbers.split(",")] == [n for n in range(1, partitions + 1) if partitions % n == 0]
    assert f"|| # == {partitions}" in formula
    assert {each["name"] for each in spec["triggers"]} == {"lag", "rate"}


@pytest.mark.parametrize("components", [("measured-rate",), ("several-topics", "measured-rate")], ids="+".join)
def test_a_formula_gets_the_lag_unchanged(components: tuple[str, ...]) -> None:
    found = trigger(overlay("cpu", *components))
    assert (found["allowIdleConsumers"], found.get("ensureEvenDistributionOfPartitions", "false")) == ("true", "false")


def test_the_measured_rate_is_of_live_workers_and_equals_the_promtool_case() -> None:
    manifests = overlay("cpu", "measured-rate", "pod-monitor")
    query, label = trigger(manifests, "prometheus")["query"], the(manifests, "PodMonitor")["spec"]["jobLabel"]
    job = the(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"][label]
    assert f'job="{job}"' in query
    tried = yaml.safe_load((ROOT / "deploy" / "monitoring" / "tests" / "measured-rate.yaml").read_text())["tests"]
    assert {case["expr"] for each in tried for case in each["promql_expr_test"]} == {query}
