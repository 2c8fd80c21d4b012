"""Every overlay's trigger: names, numbers and formula. What KEDA makes of them, tests/kube asks KEDA itself."""

import math
import re
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import pytest
import yaml

from tests.unit.deploy.test_kubernetes import LOGINS, VARIANTS, by_name, read_settings, secrets
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
    spec = the(manifests, "ScaledObject")["spec"]
    name = the(manifests, "Deployment")["metadata"]["name"]
    assert spec["scaleTargetRef"] == {"name": name, "envSourceContainerName": worker_of(manifests)["name"]}
    assert spec["minReplicaCount"] == (0 if {"scale-to-zero", "backfill"} & set(components) else 1)
    assert spec["minReplicaCount"] < spec["maxReplicaCount"]
    kept = {"failureThreshold": 3, "behavior": "currentReplicasIfHigher", "replicas": 1 if "backfill" in name else 2}
    assert spec["fallback"] == kept, "with 0 KEDA takes an error of Kafka for no lag"
    keys = secrets(components)["tagstream"]
    environment = pod_environment(manifests, keys)
    login = the(manifests, "TriggerAuthentication")
    asked = {each["parameter"]: each["key"] for each in login["spec"].get("secretTargetRef", ())}
    assert set(asked.values()) <= keys.keys()
    topics = []
    for each in spec["triggers"]:
        if each["type"] == "kafka":
            named = {key: environment[name] for key, name in each["metadata"].items() if key.endswith("FromEnv")}
            topics.append((each.get("name"), each["metadata"].get("topic", named.get("topicFromEnv"))))
            assert named["bootstrapServersFromEnv"].split(",") == [*read.kafka_servers]
            assert named["consumerGroupFromEnv"] == read.group
            assert each["metadata"]["offsetResetPolicy"] == read.offset_reset
            referred = each.get("authenticationRef")
            assert referred == ({"name": login["metadata"]["name"]} if LOGINS & set(components) else None)
    if "lanes" in components:
        lanes = {topic.name: "background" if topic.background else "live" for topic in read.input_topics}
        assert topics == [(lane, name) for name, lane in lanes.items()]
    else:
        everything = None if "several-topics" in components else ",".join(read.topics)
        assert topics == [("lag" if "measured-rate" in components else None, everything)]


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


@pytest.mark.parametrize("lanes", [(), ("lanes",)], ids="+".join)
def test_the_formula_knows_every_number_of_workers_that_shares_the_partitions_evenly(lanes: tuple[str, ...]) -> None:
    spec = scaled(*lanes, "measured-rate")
    formula, partitions = spec["advanced"]["scalingModifiers"]["formula"], spec["maxReplicaCount"]
    (numbers,) = re.findall(r"find\(\[([0-9, ]+)\]", formula)
    assert [int(each) for each in numbers.split(",")] == [n for n in range(1, partitions + 1) if partitions % n == 0]
    assert f"|| # == {partitions}" in formula
    assert {each["name"] for each in spec["triggers"]} == ({"live", "background", "rate"} if lanes else {"lag", "rate"})


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


def started(spec: Manifest, cap: int, **lags: int) -> int:
    """Workers that Kubernetes starts for these values of the triggers; `cap`: background workers, in place of 4."""
    modifiers = spec["advanced"]["scalingModifiers"]
    formula = modifiers["formula"].replace("12232", str(3058 * cap)).replace("4 * max", f"{cap} * max")
    if "find" in formula:  # a ternary and a search, in Python's words
        formula = re.sub(r"(.*) \? 0 : find\((.*?\]), (.*)\)", r"0 if \1 else next(n for n in \2 if \3)", formula)
        formula = formula.replace("#", "n").replace("||", "or")
    wanted = math.ceil(eval(formula, {"min": min, "max": max, "next": next, **lags}) / int(modifiers["target"]))
    return int(min(max(wanted, spec["minReplicaCount"]), spec["maxReplicaCount"]))


MANY = 10**7


@pytest.mark.parametrize(
    ("live", "background", "cap", "workers", "measured"),
    [
        (0, 0, 4, 0, 0),
        (1, 0, 4, 1, 1),
        (0, 1, 4, 1, 1),
        (0, 1, 1, 1, 1),
        (0, 3059, 4, 2, 4),
        (0, MANY, 4, 4, 4),
        (0, MANY, 1, 1, 1),
        (1, 1, 4, 1, 1),
        (1, MANY, 4, 5, 6),
        (1, MANY, 1, 2, 2),
        (3058, 3058, 4, 2, 12),
        (9174, MANY, 4, 7, 12),
        (9174, MANY, 2, 5, 12),
        (MANY, 0, 4, 12, 12),
        (MANY, MANY, 4, 12, 12),
    ],
)
def test_background_lag_starts_workers_up_to_a_cap_in_addition_to_those_for_live_lag(
    live: int, background: int, cap: int, workers: int, measured: int
) -> None:
    """`measured`: at 600 events a minute for each worker, in numbers that divide that of the partitions."""
    lags = {"live": live, "background": background}
    assert started(scaled("lanes", "scale-to-zero"), cap, **lags) == workers
    assert started(scaled("lanes"), cap, **lags) == max(1, workers)
    assert started(scaled("lanes", "measured-rate", "scale-to-zero"), cap, **lags, rate=10) == measured


def test_of_lanes_each_lag_is_counted_as_it_is_and_the_threshold_is_the_overlays() -> None:
    threshold = int(trigger(overlay("cpu"))["lagThreshold"])
    assert f"min(background, {4 * threshold})" in scaled("lanes")["advanced"]["scalingModifiers"]["formula"]
    for base, more in (("cpu", ()), ("gpu", ()), ("gpu", ("gpu-processes",))):
        spec = the(overlay(base, "lanes", *more), "ScaledObject")["spec"]
        assert spec["advanced"]["scalingModifiers"]["target"] == trigger(overlay(base, *more))["lagThreshold"]
        live, background = (each["metadata"] for each in spec["triggers"])
        assert live == {**background, "topic": "images"}
        assert (live["allowIdleConsumers"], live["ensureEvenDistributionOfPartitions"]) == ("true", "false")


def test_lanes_a_rate_and_processes_go_together_in_any_order() -> None:
    found = [by_name(overlay("gpu", *names)) for names in permutations(("lanes", "measured-rate", "gpu-processes"))]
    assert all(each == found[0] for each in found)
    assert found[0]["ScaledObject", "tagstream"]["spec"]["triggers"].keys() == {"live", "background", "rate"}


@pytest.mark.parametrize("other", ["backfill", "several-topics"])
def test_lanes_are_refused_where_another_component_chooses_the_topics(other: str) -> None:
    for names in (("lanes", other), (other, "lanes")):
        with pytest.raises(AssertionError, match=r"not-for-a-backfill|topicFromEnv"):
            overlay("cpu", *names)
