"""Single components: values in the rendered files, the bundles' job, a backfill with live work."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.deploy.test_kubernetes import by_name, containers, read_settings, secrets
from tests.unit.deploy.tools import (
    INDEX,
    OVERLAYS,
    ROOT,
    Manifest,
    documented,
    named,
    overlay,
    pod_environment,
    pod_of,
    the,
    worker_of,
)
from workers.cli.app import run_command
from workers.cli.models import kind_of
from workers.environment import read
from workers.errors import UNAVAILABLE, Unavailable
from workers.models import pull

pytestmark = pytest.mark.slow

GIB = 2**30
POD = "Deployment spec template spec"
WORKER = f"{POD} containers worker"
GPU = f"{WORKER} resources limits nvidia.com/gpu"

ROWS: list[tuple[str, str, Any]] = [
    ("", "PodDisruptionBudget spec unhealthyPodEvictionPolicy", "AlwaysAllow"),
    ("", "Deployment spec replicas", None),  # which KEDA sets
    ("gpu", f"{POD} tolerations", [{"effect": "NoSchedule", "key": "nvidia.com/gpu", "operator": "Exists"}]),
    ("gpu", GPU, "1"),
    ("bundles", f"{POD} volumes bundles persistentVolumeClaim", {"claimName": "tagstream-bundles", "readOnly": True}),
    ("external-secret", "ExternalSecret spec target name", "tagstream"),
    ("backfill", "PriorityClass preemptionPolicy", "Never"),
]


@pytest.mark.parametrize(("rendered", "place", "stands"), ROWS)
def test_the_present_value(rendered: str, place: str, stands: Any) -> None:
    """In each overlay, unless the row is for GPUs alone. Values that the chart has too, tests/kube compares."""
    components = [name for name in rendered.split() if name not in OVERLAYS]
    kind, *steps = place.split()
    for base in ["gpu"] if "gpu" in rendered.split() else OVERLAYS:
        found: Any = named(the(overlay(base, *components), kind))
        for step in steps:
            found = found[int(step)] if isinstance(found, list) else found.get(step)
        assert found == stands


def test_spans_say_which_pod_they_are_of() -> None:
    environment = pod_environment(overlay("cpu", "otlp"), secrets(())["tagstream"])
    assert environment["OTEL_RESOURCE_ATTRIBUTES"] == "k8s.pod.name=tagstream-7c9d8b6f5-x2x4z,k8s.node.name=node-1"
    assert read({name: value for name, value in environment.items() if name.startswith("OTEL_")}).otlp_traces


def test_dashboards_are_found_by_grafanas_sidecar() -> None:
    maps = [each for each in overlay("cpu", "dashboards") if "grafana_dashboard" in each["metadata"].get("labels", {})]
    assert {(each["kind"], each["metadata"]["labels"]["grafana_dashboard"]) for each in maps} == {("ConfigMap", "1")}
    shown = {name: text for each in maps for name, text in each["data"].items()}
    assert shown == {path.name: path.read_text() for path in (ROOT / "deploy/helm/tagstream/dashboards").glob("*.json")}
    assert len(maps) == len(shown) > 1


def job_pod() -> Manifest:
    found: Manifest = the(overlay("cpu", "bundles", "bundles-job"), "Job")["spec"]["template"]["spec"]
    return found


def quantity(text: str) -> int:
    return int(text[:-2]) * {"Gi": GIB, "Mi": 2**20}[text[-2:]]


def test_the_jobs_command_names_published_models_keeps_existing_ones_and_writes_to_the_workers_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(wanted: pull.HubFile, *_: object, **__: object) -> Path:
        raise Unavailable("hub", f"no {wanted.name} today")

    monkeypatch.setattr(pull, "fetch", refuse)
    runs = [step["args"] for step in containers(job_pod())]
    exits = [run_command([word.replace("/bundles", str(tmp_path)) for word in run]) for run in runs]
    assert exits == [UNAVAILABLE, UNAVAILABLE, 0]
    assert all("--keep" in run for run in runs[:2])
    written = {word for run in runs for word in run if word.startswith("/bundles/")}
    assert set(re.findall(r"TAGSTREAM_(?:TAGGER|CAPTIONER)=(\S+)", documented())) == written


def test_the_downloads_fit_the_jobs_disk_and_the_largest_its_memory() -> None:
    steps = containers(job_pod())
    sizes = [pull.PUBLISHED[kind_of(step["args"][2])].checkpoint.size for step in steps if "pull" in step["args"]]
    (work,) = [quantity(each["emptyDir"]["sizeLimit"]) for each in job_pod()["volumes"] if each["name"] == "work"]
    assert sum(sizes) < work
    for step in steps:
        assert quantity(step["resources"]["limits"]["ephemeral-storage"]) > work
        assert quantity(step["resources"]["limits"]["memory"]) > max(sizes) + GIB
    assert f"fetches {sum(sizes) / 1e9:.1f} GB" in documented()


@pytest.mark.parametrize("base", OVERLAYS)
def test_a_backfill_has_a_queue_and_a_quota_of_its_own_and_all_else_of_the_live_workers(base: str) -> None:
    others = ("kafka-sasl-tls", "otlp", "egress", "bundles")
    manifests = (overlay(base, *others), overlay(base, *others, "backfill"))
    live, backfill = (pod_environment(each, secrets(others)["tagstream"]) for each in manifests)
    changed = {name for name in live if name.startswith("TAGSTREAM_") and live[name] != backfill[name]}
    assert changed == {"TAGSTREAM_GROUP", "TAGSTREAM_INPUT_TOPICS"}
    most = the(manifests[1], "ScaledObject")["spec"]["maxReplicaCount"]
    hard, asked = the(manifests[1], "ResourceQuota")["spec"]["hard"], worker_of(manifests[1])["resources"]["requests"]
    assert int(hard["pods"]) == most
    assert int(hard["requests.cpu"]) >= most * int(asked["cpu"])
    assert quantity(hard["requests.memory"]) >= most * quantity(asked["memory"])
    assert int(hard["requests.nvidia.com/gpu"]) >= most * int(asked.get("nvidia.com/gpu", 0))


ONCE_A_NAMESPACE = (
    "alerts",
    "bundles-job",
    "dashboards",
    "external-secret",
    "pod-monitor",
    "index",
    "search-page",
    "topics-job",
)


def test_names_that_a_namespace_has_once_are_equal_in_a_backfills_overlay_and_documented() -> None:
    once = ONCE_A_NAMESPACE[:-3]  # the others have their overlay's settings
    live, backfill = (by_name(overlay("cpu", *components, *once)) for components in ((), ("backfill",)))
    shared = live.keys() & backfill.keys()
    kinds = {"ConfigMap", "ExternalSecret", "Job", "PodMonitor", "PrometheusRule", "ServiceAccount"}
    assert {kind for kind, _ in shared} == kinds
    assert {key: live[key] for key in shared} == {key: backfill[key] for key in shared}
    (said,) = re.findall(r"^- Only the live overlay has these: (.*?)$", documented(), re.MULTILINE)
    assert tuple(re.findall("`([a-z-]+)`", said)) == ONCE_A_NAMESPACE


def test_the_topics_job_has_the_login_of_the_index_and_topics_for_the_most_workers() -> None:
    manifests = overlay("cpu", "topics-job", "index")
    pod = the(manifests, "Job")["spec"]["template"]["spec"]
    (container,), index = pod["containers"], worker_of(manifests, INDEX)
    own = ("TAGSTREAM_INDEX_DSN_FILE", "TAGSTREAM_INDEX_HTTP_PORT", "OTEL_SERVICE_NAME")
    assert container["env"] == [each for each in index["env"] if each["name"] not in own]
    assert container["envFrom"] == index["envFrom"]
    (login,) = [each for each in pod["volumes"] if "secret" in each]
    assert login in pod_of(manifests, INDEX)["volumes"]
    assert container["args"] == [
        "topics",
        "create",
        "--partitions",
        str(the(manifests, "ScaledObject")["spec"]["maxReplicaCount"]),
    ]


def test_tokens_of_a_role_are_asked_of_the_workers_region(tmp_path: Path) -> None:
    manifests = overlay("cpu", "kafka-msk-iam")
    (trigger,) = the(manifests, "ScaledObject")["spec"]["triggers"]
    read = read_settings(manifests, tmp_path)
    assert (read.kafka_sasl_mechanism, trigger["metadata"]["awsRegion"]) == ("AWS_MSK_IAM", read.aws_region)
    assert the(manifests, "TriggerAuthentication")["spec"] == {"podIdentity": {"provider": "aws"}}
