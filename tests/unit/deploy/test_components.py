"""Components: bundles beside the image, backfills beside live work, in whatever order an overlay lists them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

from tests.unit.deploy.tools import (
    COMPONENTS,
    K8S,
    OVERLAYS,
    ROOT,
    Manifest,
    kinds,
    kustomize,
    named,
    overlay,
    pod_environment,
    the,
    worker_of,
)
from workers.cli.app import run_command
from workers.cli.models import kind_of
from workers.errors import UNAVAILABLE, Unavailable
from workers.models import pull

pytestmark = pytest.mark.slow

GIB = 2**30
UNITS = {"Gi": GIB, "Mi": 2**20}


def job() -> Manifest:
    return the(overlay("cpu", "bundles", "bundles-job"), "Job")


def job_pod() -> Manifest:
    found: Manifest = job()["spec"]["template"]["spec"]
    return found


def steps() -> list[Manifest]:
    """The Job's containers in the order in which they run."""
    return [*job_pod()["initContainers"], *job_pod()["containers"]]


def volumes(pod: Manifest) -> dict[str, Manifest]:
    return {each["name"]: each for each in pod["volumes"]}


def worker_pod(*components: str) -> Manifest:
    found: Manifest = the(overlay("cpu", *components), "Deployment")["spec"]["template"]["spec"]
    return found


def quantity(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


def test_the_job_may_do_no_more_than_a_worker() -> None:
    workers_pod = worker_pod()
    assert job_pod()["securityContext"] == workers_pod["securityContext"]
    for step in steps():
        assert step["securityContext"] == workers_pod["containers"][0]["securityContext"]
    assert job_pod()["automountServiceAccountToken"] is False
    assert job_pod()["serviceAccountName"] == "tagstream-bundles" != workers_pod["serviceAccountName"]


def test_the_job_has_the_workers_image() -> None:
    for base in ("cpu", "gpu"):
        manifests = overlay(base, "bundles-job")
        pod = the(manifests, "Job")["spec"]["template"]["spec"]
        images = {step["image"] for step in [*pod["initContainers"], *pod["containers"]]}
        assert images == {worker_of(manifests)["image"]}


def test_the_job_fills_the_claim_that_the_workers_read() -> None:
    reads, fills = (volumes(pod)["bundles"]["persistentVolumeClaim"] for pod in (worker_pod("bundles"), job_pod()))
    assert (reads["claimName"], reads["readOnly"]) == (fills["claimName"], True)
    assert not fills.get("readOnly")


def test_the_job_writes_where_the_documented_overlay_reads() -> None:
    written = {argument for step in steps() for argument in step["args"] if argument.startswith("/bundles/")}
    said = (ROOT / "docs" / "guide" / "deploying.md").read_text()
    assert set(re.findall(r"TAGSTREAM_(?:TAGGER|CAPTIONER)=(\S+)", said)) == written


def test_what_the_job_runs_is_a_command_that_asks_for_the_published_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(wanted: pull.HubFile, *_: object, **__: object) -> Path:
        raise Unavailable("hub", f"no {wanted.name} today")

    monkeypatch.setattr(pull, "fetch", refuse)
    exits = [run_command([each.replace("/bundles", str(tmp_path)) for each in step["args"]]) for step in steps()]
    assert exits == [UNAVAILABLE, UNAVAILABLE, 0]


def test_a_job_that_runs_again_keeps_what_is_there() -> None:
    assert all("--keep" in step["args"] for step in steps() if "pull" in step["args"])


def test_the_downloads_fit_the_jobs_disk_and_the_largest_its_memory() -> None:
    sizes = [pull.PUBLISHED[kind_of(step["args"][2])].checkpoint.size for step in steps() if "pull" in step["args"]]
    work = quantity(volumes(job_pod())["work"]["emptyDir"]["sizeLimit"])
    assert sum(sizes) < work
    for step in steps():
        assert quantity(step["resources"]["limits"]["ephemeral-storage"]) > work
        assert quantity(step["resources"]["limits"]["memory"]) > max(sizes) + GIB
    text = (ROOT / "deploy/k8s/components/bundles-job/job.yaml").read_text()
    assert f"The downloads, {sum(sizes) / 1e9:.1f} GB." in text
    said = (ROOT / "docs" / "guide" / "deploying.md").read_text()
    assert f"fetches {sum(sizes) / 1e9:.1f} GB" in said


def test_the_job_writes_only_to_its_volumes() -> None:
    for step in steps():
        assert {mount["mountPath"] for mount in step["volumeMounts"]} == {"/bundles", "/var/lib/tagstream", "/tmp"}


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


def test_it_has_a_topic_and_a_group_of_its_own_and_the_same_results(both: Both) -> None:
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


def test_its_autoscaler_scales_it_and_logs_in_by_its_own_manifest(both: Both) -> None:
    _, backfill = both
    spec = the(backfill, "ScaledObject")["spec"]
    assert spec["scaleTargetRef"]["name"] == the(backfill, "Deployment")["metadata"]["name"]
    (trigger,) = spec["triggers"]
    assert trigger["authenticationRef"]["name"] == the(backfill, "TriggerAuthentication")["metadata"]["name"]
    assert spec["minReplicaCount"] == 0


def test_its_quota_counts_its_pods_alone_and_holds_all_of_them(both: Both) -> None:
    _, backfill = both
    quota = the(backfill, "ResourceQuota")["spec"]
    most = the(backfill, "ScaledObject")["spec"]["maxReplicaCount"]
    asked = worker_of(backfill)["resources"]["requests"]
    hard = quota["hard"]
    assert int(hard["pods"]) == most
    assert int(hard["requests.cpu"]) >= most * int(asked["cpu"])
    assert int(hard["requests.memory"][:-2]) >= most * int(asked["memory"][:-2])
    assert int(hard["requests.nvidia.com/gpu"]) >= most * int(asked.get("nvidia.com/gpu", 0))


LOGINS = tuple(name for name in COMPONENTS if name.startswith("kafka-"))
TAKING_AWAY = ("fixed-size",)
RENAMING = ("backfill",)
INSTEAD_OF_BUNDLES = "bundles-image"
TOGETHER = tuple(name for name in COMPONENTS if name not in {*LOGINS, *TAKING_AWAY, *RENAMING, INSTEAD_OF_BUNDLES})
ONCE_A_NAMESPACE = ("alerts", "bundles-job", "dashboards", "external-secret", "pod-monitor", "index", "search-page")


def by_name(manifests: Sequence[Manifest]) -> dict[tuple[str, str], Any]:
    return {(each["kind"], each["metadata"]["name"]): named(each) for each in manifests}


@pytest.mark.parametrize("others", [(), RENAMING, (*RENAMING, *TAKING_AWAY)], ids=lambda names: "+".join(names))
@pytest.mark.parametrize("login", LOGINS)
def test_components_in_the_opposite_order_give_the_same(login: str, others: Sequence[str]) -> None:
    """One list and its reverse: each pair of its components is rendered in both orders."""
    names = (*others, login, *TOGETHER)
    assert by_name(overlay("gpu", *names)) == by_name(overlay("gpu", *names[::-1]))


def test_bundles_in_an_image_are_mounted_in_any_order() -> None:
    names = (INSTEAD_OF_BUNDLES, *(name for name in TOGETHER if name != "bundles"))
    assert by_name(overlay("gpu", *names)) == by_name(overlay("gpu", *names[::-1]))


def test_two_logins_at_kafka_are_refused() -> None:
    with pytest.raises(AssertionError, match="testing value /spec failed"):
        overlay("cpu", "kafka-mtls", "kafka-oauth")


@pytest.mark.parametrize("login", LOGINS)
def test_a_login_that_is_listed_after_a_fixed_size_leaves_nothing_of_kedas(login: str) -> None:
    assert not {"ScaledObject", "TriggerAuthentication"} & kinds(overlay("cpu", "fixed-size", login))


def test_what_a_namespace_has_once_is_the_same_in_a_backfills_overlay() -> None:
    once = [
        name for name in ONCE_A_NAMESPACE if name not in ("index", "search-page")
    ]  # they have their overlay's settings
    live, backfill = (by_name(overlay("cpu", *components, *once)) for components in ((), RENAMING))
    shared = live.keys() & backfill.keys()
    assert {kind for kind, _ in shared} == {
        *("ConfigMap", "ExternalSecret", "Job", "PodMonitor", "PrometheusRule", "ServiceAccount")
    }
    assert {key: live[key] for key in shared} == {key: backfill[key] for key in shared}


def test_the_documentation_names_what_a_backfills_overlay_leaves_to_the_live_one() -> None:
    page = (ROOT / "docs" / "guide" / "deploying.md").read_text()
    (said,) = re.findall(r"^- Only the live overlay has these: (.*?)$", page, re.MULTILINE)
    assert tuple(re.findall("`([a-z-]+)`", said)) == ONCE_A_NAMESPACE
