"""Single components: values in the rendered files, the bundles' job, a backfill with live work."""

import re
from pathlib import Path

import pytest

from tests.unit.deploy.test_kubernetes import containers, read_settings, secrets
from tests.unit.deploy.tools import (
    INDEX,
    OVERLAYS,
    Manifest,
    documented,
    overlay,
    pod_environment,
    pod_of,
    the,
    worker_of,
)
from workers.cli.app import run_command
from workers.environment import read
from workers.errors import UNAVAILABLE, Unavailable
from workers.models import pull

pytestmark = pytest.mark.slow

GIB = 2**30


def test_spans_say_which_pod_they_are_of() -> None:
    environment = pod_environment(overlay("cpu", "otlp"), secrets(())["tagstream"])
    assert environment["OTEL_RESOURCE_ATTRIBUTES"] == "k8s.pod.name=tagstream-7c9d8b6f5-x2x4z,k8s.node.name=node-1"
    assert read({name: value for name, value in environment.items() if name.startswith("OTEL_")}).otlp_traces


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
    sizes = [
        pull.PUBLISHED[step["args"][2].replace("-", "_")].checkpoint.size for step in steps if "pull" in step["args"]
    ]
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


def test_only_workers_look_for_the_key_of_captions() -> None:
    manifests = overlay("cpu", "topics-job", "index", "search-page")
    emptied = {"name": "TAGSTREAM_CAPTION_KEY_FILE", "value": ""}
    pods = [each["spec"]["template"]["spec"] for each in manifests if each["kind"] in ("Deployment", "Job")]
    others = [each for pod in pods for each in pod["containers"] if each["name"] != "worker"]
    assert len(others) == 3
    assert all(emptied in each["env"] for each in others)
    assert emptied not in worker_of(manifests)["env"]


def test_tokens_of_a_role_are_asked_of_the_workers_region(tmp_path: Path) -> None:
    manifests = overlay("cpu", "kafka-msk-iam")
    (trigger,) = the(manifests, "ScaledObject")["spec"]["triggers"]
    read = read_settings(manifests, tmp_path)
    assert (read.kafka_sasl_mechanism, trigger["metadata"]["awsRegion"]) == ("AWS_MSK_IAM", read.aws_region)
    assert the(manifests, "TriggerAuthentication")["spec"] == {"podIdentity": {"provider": "aws"}}
