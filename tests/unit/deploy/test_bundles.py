"""Bundles beside the image: the claim, the Job that fills it, the image volume, and what the workers see of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.deploy.tools import ROOT, Manifest, overlay, the, worker_of
from workers.cli.app import run_command
from workers.cli.exit_codes import MISCONFIGURED, UNAVAILABLE
from workers.cli.models import kind_of
from workers.errors import Unavailable
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


def test_no_policy_budget_or_deployment_takes_the_jobs_pod_for_a_worker() -> None:
    labels = job()["spec"]["template"]["metadata"]["labels"]
    assert labels != the(overlay("cpu"), "Deployment")["spec"]["selector"]["matchLabels"]
    assert labels == {"app.kubernetes.io/name": "tagstream-bundles"}


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


@pytest.mark.parametrize("component", ["bundles", "bundles-image"])
def test_workers_only_read_bundles(component: str) -> None:
    (mount,) = [each for each in worker_pod(component)["containers"][0]["volumeMounts"] if each["name"] == "bundles"]
    assert (mount["mountPath"], mount["readOnly"]) == ("/bundles", True)


def test_an_image_volume_is_no_claim() -> None:
    volume = volumes(worker_pod("bundles-image"))["bundles"]
    assert volume["image"]["reference"].startswith("registry.example.com/")
    assert "persistentVolumeClaim" not in volume


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


def test_wrong_arguments_are_not_tried_again() -> None:
    (rule,) = job()["spec"]["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [MISCONFIGURED]}}
    assert job_pod()["restartPolicy"] == "Never"


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
