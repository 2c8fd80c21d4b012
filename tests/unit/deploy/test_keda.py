"""Every overlay's trigger: names, numbers and formula. What KEDA makes of them, tests/kube asks KEDA itself."""

import re
from collections.abc import Sequence

import pytest
import yaml

from tests.unit.deploy.tools import OVERLAYS, ROOT, Manifest, overlay, pod_environment, the, worker_of
from workers.capacity import BUILT_IN, CapacityPlan, Demand

SECRETS = dict.fromkeys(("kafka-user", "kafka-password", "kafka-token-endpoint", "kafka-token-scope"), "secret")
COMPONENTS: list[tuple[str, ...]] = [
    (),
    ("kafka-sasl-tls",),
    ("kafka-mtls",),
    ("kafka-oauth",),
    ("kafka-msk-iam",),
    ("several-topics",),
    ("measured-rate",),
    ("kafka-mtls", "backfill"),
]


def trigger(manifests: Sequence[Manifest], kind: str = "kafka") -> dict[str, str]:
    """The metadata of the only trigger of this kind."""
    (found,) = [each for each in the(manifests, "ScaledObject")["spec"]["triggers"] if each["type"] == kind]
    return dict(found["metadata"])


@pytest.mark.slow
@pytest.mark.parametrize("components", COMPONENTS, ids="+".join)
@pytest.mark.parametrize("base", OVERLAYS)
def test_a_trigger_names_the_workers_own_settings(base: str, components: tuple[str, ...]) -> None:
    manifests = overlay(base, *components)
    environment = pod_environment(manifests, SECRETS)
    named = {name: variable for name, variable in trigger(manifests).items() if name.endswith("FromEnv")}
    values = {name: environment.get(variable, "") for name, variable in named.items()}
    assert values["bootstrapServersFromEnv"]
    assert values["consumerGroupFromEnv"] == ("tagstream-backfill" if "backfill" in components else "tagstream")
    own = "images.backfill" if "backfill" in components else "images"
    assert values.get("topicFromEnv") == (None if "several-topics" in components else own)


@pytest.mark.parametrize("base", OVERLAYS)
def test_a_partition_without_a_commit_for_a_while_counts_like_the_others(base: str) -> None:
    """With excludePersistentLag KEDA would take a worker that commits seldom, or crashes, for one without work."""
    assert trigger(overlay(base)).get("excludePersistentLag", "false") == "false"


@pytest.mark.parametrize("partitions", [12, 24, 48, 120])
def test_on_the_way_down_no_worker_has_twice_the_partitions_of_another(partitions: int) -> None:
    """Kubernetes' autoscaler lets a percentage go at most, rounded to more that go."""
    behavior = the(overlay("cpu"), "ScaledObject")["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    (policy,) = behavior["scaleDown"]["policies"]
    assert policy["type"] == "Percent"
    even = [number for number in range(1, partitions + 1) if partitions % number == 0]
    for wanted in even:
        workers = partitions
        while workers > wanted:
            workers = max(wanted, int(workers * (1 - policy["value"] / 100)))
            most, least = -(-partitions // workers), partitions // workers
            assert most < 2 * least or workers == 1


def test_as_many_may_wait_for_each_worker_as_the_capacity_planner_says() -> None:
    cores = int(worker_of(overlay("cpu"))["resources"]["requests"]["cpu"])
    plan = CapacityPlan(Demand(1, megapixels=2, cores=cores), BUILT_IN["compact"])
    assert cores == 2
    assert trigger(overlay("cpu"))["lagThreshold"] == str(plan.lag_threshold)
    said = (ROOT / "docs" / "guide" / "deploying.md").read_text()
    (sentence,) = re.findall(r"The default is [^.]*\.", " ".join(said.split()))
    assert re.findall(r"\d+", sentence) == [str(plan.lag_threshold), "60", f"{plan.rate:.0f}", str(cores), "2"]


def test_the_formula_knows_every_number_of_workers_that_shares_the_partitions_evenly() -> None:
    spec = the(overlay("cpu", "measured-rate"), "ScaledObject")["spec"]
    formula = spec["advanced"]["scalingModifiers"]["formula"]
    (numbers,) = re.findall(r"find\(\[([0-9, ]+)\]", formula)
    partitions = spec["maxReplicaCount"]
    assert [int(each) for each in numbers.split(",")] == [n for n in range(1, partitions + 1) if partitions % n == 0]
    assert f"|| # == {partitions}" in formula
    assert {each["name"] for each in spec["triggers"]} == {"lag", "rate"}


@pytest.mark.parametrize("components", [("measured-rate",), ("several-topics", "measured-rate")], ids="+".join)
def test_a_formula_gets_the_lag_as_it_is(components: tuple[str, ...]) -> None:
    found = trigger(overlay("cpu", *components))
    assert (found["allowIdleConsumers"], found.get("ensureEvenDistributionOfPartitions", "false")) == ("true", "false")


def test_the_measured_rate_is_asked_of_the_pod_monitors_job_for_live_workers() -> None:
    manifests = overlay("cpu", "measured-rate", "pod-monitor")
    label = the(manifests, "PodMonitor")["spec"]["jobLabel"]
    job = the(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"][label]
    assert f'job="{job}"' in rate_query(manifests)
    backfill = the(overlay("cpu", "backfill"), "Deployment")["spec"]["template"]["metadata"]["labels"][label]
    assert backfill != job


def test_the_measured_rate_is_what_prometheus_own_tool_tries() -> None:
    tried = yaml.safe_load((ROOT / "deploy" / "monitoring" / "tests" / "measured-rate.yaml").read_text())["tests"]
    queries = {case["expr"] for each in tried for case in each["promql_expr_test"]}
    assert queries == {rate_query(overlay("cpu", "measured-rate"))}


def rate_query(manifests: Sequence[Manifest]) -> str:
    return trigger(manifests, "prometheus")["query"]
