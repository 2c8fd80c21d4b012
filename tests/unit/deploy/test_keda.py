"""Every overlay's trigger under the rules that KEDA itself applies, and under the lags that groups really have."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import pytest
import yaml

from tests.unit.deploy.keda import OLDEST, Autoscaler, Group, Partition, Refused, Scaler, Trigger, parse
from tests.unit.deploy.tools import OVERLAYS, ROOT, Manifest, overlay, pod_environment, the, worker_of
from workers.capacity import BUILT_IN, CapacityPlan, Demand

SECRETS = {
    "kafka-user": "tagstream",
    "kafka-password": "password",
    "kafka-token-endpoint": "https://auth.example/token",
    "kafka-token-scope": "",
}
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
PARTITIONS: list[Partition] = [("images", number) for number in range(12)]


def metadata(manifests: Sequence[Manifest]) -> dict[str, str]:
    """Of the trigger for Kafka."""
    (trigger,) = [each for each in the(manifests, "ScaledObject")["spec"]["triggers"] if each["type"] == "kafka"]
    return dict(trigger["metadata"])


def login(manifests: Sequence[Manifest]) -> dict[str, str]:
    targets = [
        target
        for manifest in manifests
        if manifest["kind"] == "TriggerAuthentication"
        for target in manifest["spec"].get("secretTargetRef", ())
    ]
    return {target["parameter"]: target["key"] for target in targets}


def read(manifests: Sequence[Manifest], **changes: str | None) -> Trigger:
    """The rendered trigger as KEDA reads it; None takes a name out."""
    changed = metadata(manifests) | changes
    kept = {name: value for name, value in changed.items() if value is not None}
    return parse(kept, pod_environment(manifests, SECRETS), login(manifests))


def autoscaler(manifests: Sequence[Manifest], **changes: str | None) -> Autoscaler:
    spec = the(manifests, "ScaledObject")["spec"]
    return Autoscaler(Scaler(read(manifests, **changes)), spec["minReplicaCount"], spec["maxReplicaCount"])


def group(lags: Mapping[Partition, int], at: int = 1000) -> Group:
    return Group({each: at + lag for each, lag in lags.items()}, dict.fromkeys(lags, at))


def asked(seconds: int) -> Iterator[int]:
    """When the scaler is asked: KEDA's poll and Kubernetes' autoscaler, every 15 s each, 5 s apart."""
    return (second for second in range(1, seconds) if second % 15 in {0, 5})


@pytest.mark.slow
@pytest.mark.parametrize("components", COMPONENTS, ids="+".join)
@pytest.mark.parametrize("base", OVERLAYS)
def test_a_trigger_is_taken(base: str, components: tuple[str, ...]) -> None:
    trigger = read(overlay(base, *components))
    own = "images.backfill" if "backfill" in components else "images"
    assert trigger.topic == ("" if "several-topics" in components else own)
    assert trigger.bootstrap_servers
    assert trigger.group == ("tagstream-backfill" if "backfill" in components else "tagstream")


def test_several_topics_in_the_setting_are_refused_until_the_component_for_them_is_there() -> None:
    several = {"TAGSTREAM_INPUT_TOPICS": "images,scans"}
    for components, refused in (((), True), (("several-topics",), False)):
        manifests = overlay("cpu", *components)
        environment = pod_environment(manifests, SECRETS) | several
        if refused:
            with pytest.raises(Refused, match="knows no topic 'images,scans'"):
                parse(metadata(manifests), environment, {})
        else:
            assert parse(metadata(manifests), environment, {}).topic == ""


def test_the_topic_alone_cannot_be_left_out() -> None:
    with pytest.raises(Refused, match="ensureEvenDistributionOfPartitions needs a topic"):
        read(overlay("cpu"), topicFromEnv=None)


def test_a_login_without_its_password_is_refused() -> None:
    manifests = overlay("cpu", "kafka-sasl-tls")
    with pytest.raises(Refused, match="no password given"):
        parse(metadata(manifests), pod_environment(manifests, SECRETS), {"username": "tagstream"})


def committing(scaler: Autoscaler, every_s: int, minutes: int = 10) -> list[int]:
    """The workers that are wanted while a backlog of an hour is worked off in commits `every_s` seconds apart."""
    done_a_second = 20
    lags = dict.fromkeys(PARTITIONS, 3600 * done_a_second)
    state, workers, found = group(lags), scaler.most, []
    for second in asked(60 * minutes):
        for each in PARTITIONS:
            state.committed[each] = 1000 + second // every_s * every_s * done_a_second
        found.append(scaler.wanted(state, workers))
        workers = found[-1]
    return found


@pytest.mark.parametrize("every_s", [1, 8, 30, 120])
@pytest.mark.parametrize("base", OVERLAYS)
def test_workers_are_kept_for_a_backlog_however_seldom_they_commit(base: str, every_s: int) -> None:
    scaler = autoscaler(overlay(base))
    assert set(committing(scaler, every_s)) == {scaler.most}


def test_this_simulation_would_tell_a_trigger_that_takes_seldom_commits_for_a_standstill() -> None:
    assert min(committing(autoscaler(overlay("cpu"), excludePersistentLag="true"), 8)) == 1


@pytest.mark.parametrize("base", OVERLAYS)
def test_a_crash_loop_takes_no_workers_away(base: str) -> None:
    scaler = autoscaler(overlay(base))
    state = group(dict.fromkeys(PARTITIONS, 100_000))
    for second in asked(600):
        state.ends = dict.fromkeys(PARTITIONS, 101_000 + 50 * second)  # written to, and nothing is committed
        assert scaler.wanted(state, 6) == scaler.most


def test_one_partition_that_stands_still_holds_no_more_workers_than_its_lag_is_worth() -> None:
    scaler = autoscaler(overlay("cpu"))
    state = group(dict.fromkeys(PARTITIONS, 0) | {PARTITIONS[0]: round(1.5 * scaler.scaler.trigger.lag_threshold)})
    assert [scaler.wanted(state, workers) for workers in (12, 6, 2)] == [2, 2, 2]


@pytest.mark.parametrize("lag", [0, 1, 999, 1001, 2500, 4001, 6001, 11_999, 10**9])
def test_the_workers_that_are_wanted_share_the_partitions_evenly(lag: int) -> None:
    scaler = autoscaler(overlay("cpu"))
    state = group(dict.fromkeys(PARTITIONS, 0) | {PARTITIONS[3]: lag})
    wanted = scaler.wanted(state, 1)
    assert len(PARTITIONS) % wanted == 0
    assert wanted * scaler.scaler.trigger.lag_threshold >= lag or wanted == len(PARTITIONS)


def test_a_topic_with_fewer_partitions_gets_no_worker_that_would_idle() -> None:
    partitions = [("images", number) for number in range(3)]
    assert autoscaler(overlay("cpu")).wanted(group(dict.fromkeys(partitions, 10**6)), 1) == 3


def test_a_group_that_has_committed_nothing_lags_by_the_whole_topic() -> None:
    state = group(dict.fromkeys(PARTITIONS, 5000))
    state.committed = dict.fromkeys(PARTITIONS)
    assert autoscaler(overlay("cpu")).wanted(state, 1) == 12


def test_the_lags_of_several_topics_are_added_up() -> None:
    others: list[Partition] = [("scans", number) for number in range(4)]
    scaler = autoscaler(overlay("cpu"))
    worth = scaler.scaler.trigger.lag_threshold
    state = group(dict.fromkeys(PARTITIONS, round(2.7 * worth / 12)) | dict.fromkeys(others, 3 * worth // 4))
    assert autoscaler(overlay("cpu", "several-topics")).wanted(state, 1) == 6
    assert scaler.wanted(state, 1) == 3  # the first topic alone


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
            most, least = math.ceil(partitions / workers), partitions // workers
            assert most < 2 * least or workers == 1


def test_as_many_may_wait_for_each_worker_as_the_capacity_planner_says() -> None:
    cores = int(worker_of(overlay("cpu"))["resources"]["requests"]["cpu"])
    plan = CapacityPlan(Demand(1, megapixels=2, cores=cores), BUILT_IN["compact"])
    assert cores == 2
    assert read(overlay("cpu")).lag_threshold == plan.lag_threshold
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
    assert {trigger["name"] for trigger in spec["triggers"]} == {"lag", "rate"}


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
    (rate,) = [each for each in the(manifests, "ScaledObject")["spec"]["triggers"] if each["type"] == "prometheus"]
    return str(rate["metadata"]["query"])


def test_seconds_of_work_are_counted_from_the_lag_as_it_is() -> None:
    for components in [("measured-rate",), ("several-topics", "measured-rate"), ("measured-rate", "several-topics")]:
        scaler = Scaler(read(overlay("cpu", *components)))
        assert scaler.metric(group(dict.fromkeys(PARTITIONS, 1_000_001))) == 12_000_012


def test_the_documentation_names_the_oldest_release_that_knows_our_options() -> None:
    said = (ROOT / "docs" / "guide" / "deploying.md").read_text()
    (found,) = re.findall(r"\[KEDA\]\(https://keda\.sh\) (\d+)\.(\d+) or newer", said)
    assert tuple(map(int, found)) == OLDEST
