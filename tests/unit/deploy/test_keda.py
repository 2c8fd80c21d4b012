"""Every overlay's trigger under the rules that KEDA itself applies, and under the lags that groups really have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.unit.deploy.keda import OLDEST, Autoscaler, Group, Partition, Refused, Scaler, Trigger, parse
from tests.unit.deploy.tools import OVERLAYS, ROOT, Manifest, overlay, pod_environment, the

SECRETS = {"kafka-user": "tagstream", "kafka-password": "password"}
COMPONENTS: list[tuple[str, ...]] = [(), ("kafka-sasl-tls",), ("kafka-mtls",), ("several-topics",)]
PARTITIONS: list[Partition] = [("images", number) for number in range(12)]


def metadata(manifests: Sequence[Manifest]) -> dict[str, str]:
    (trigger,) = the(manifests, "ScaledObject")["spec"]["triggers"]
    return dict(trigger["metadata"])


def login(manifests: Sequence[Manifest]) -> dict[str, str]:
    targets = [
        target
        for manifest in manifests
        if manifest["kind"] == "TriggerAuthentication"
        for target in manifest["spec"]["secretTargetRef"]
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


@pytest.mark.parametrize("components", COMPONENTS, ids="+".join)
@pytest.mark.parametrize("base", OVERLAYS)
def test_a_trigger_is_taken(base: str, components: tuple[str, ...]) -> None:
    trigger = read(overlay(base, *components))
    assert trigger.topic == ("" if "several-topics" in components else "images")
    assert trigger.bootstrap_servers
    assert trigger.group == "tagstream"


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
    state = group(dict.fromkeys(PARTITIONS, 0) | {PARTITIONS[0]: 1500})
    assert [scaler.wanted(state, workers) for workers in (12, 6, 2)] == [2, 2, 2]


@pytest.mark.parametrize("lag", [0, 1, 999, 1001, 2500, 4001, 6001, 11_999, 10**9])
def test_the_workers_that_are_wanted_share_the_partitions_evenly(lag: int) -> None:
    scaler = autoscaler(overlay("cpu"))
    state = group(dict.fromkeys(PARTITIONS, 0) | {PARTITIONS[3]: lag})
    wanted = scaler.wanted(state, 1)
    assert len(PARTITIONS) % wanted == 0
    assert wanted * 1000 >= lag or wanted == len(PARTITIONS)


def test_a_topic_with_fewer_partitions_gets_no_worker_that_would_idle() -> None:
    partitions = [("images", number) for number in range(3)]
    assert autoscaler(overlay("cpu")).wanted(group(dict.fromkeys(partitions, 10**6)), 1) == 3


def test_a_group_that_has_committed_nothing_lags_by_the_whole_topic() -> None:
    state = group(dict.fromkeys(PARTITIONS, 5000))
    state.committed = dict.fromkeys(PARTITIONS)
    assert autoscaler(overlay("cpu")).wanted(state, 1) == 12


def test_the_lags_of_several_topics_are_added_up() -> None:
    others: list[Partition] = [("scans", number) for number in range(4)]
    state = group(dict.fromkeys(PARTITIONS, 250) | dict.fromkeys(others, 750))
    assert autoscaler(overlay("cpu", "several-topics")).wanted(state, 1) == 6
    assert autoscaler(overlay("cpu")).wanted(state, 1) == 3  # the first topic alone


def test_the_documentation_names_the_oldest_release_that_knows_our_options() -> None:
    said = (ROOT / "docs" / "deploying.md").read_text()
    (found,) = re.findall(r"\[KEDA\]\(https://keda\.sh\) (\d+)\.(\d+) or newer", said)
    assert tuple(map(int, found)) == OLDEST
