"""The Helm chart makes the objects that kustomize makes, and refuses wrong values. No server is needed."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kube.helm import CHART, NAME, HelmFailed, helm, rendered
from tests.unit.deploy.test_kubernetes import example
from tests.unit.deploy.tools import COMPONENTS, K8S, ROOT, Manifest, kustomize
from workers.cli.app import command_tree

pytestmark = pytest.mark.kube

ON = {"enabled": True}
SECRETS = ("tagstream", "tagstream-index", "tagstream-page")


@dataclass(frozen=True)
class Case:
    """A variant: an overlay with components and settings, and the values that make the same of the chart."""

    overlay: str
    components: Sequence[str]
    values: Mapping[str, Any]
    settings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "+".join((self.overlay, *self.components))


def topics(names: str) -> dict[str, str]:
    return {"TAGSTREAM_INPUT_TOPICS": names}


LANES = "images,images.backfill:background"
PAGE = {"enabled": True, "host": "photos.example"}
CASES = [
    Case("cpu", (), {}),
    Case("gpu", (), {"device": "gpu"}),
    Case(
        "cpu",
        ("kafka-sasl-tls", "otlp", "pod-monitor", "alerts", "bundles"),
        {
            "kafka": {"login": "sasl-tls"},
            "otlp": ON,
            "podMonitor": ON,
            "alerts": ON,
            "bundles": {"claim": "tagstream-bundles"},
        },
    ),
    Case(
        "cpu",
        ("otlp", "egress", "several-topics", "web-identity", "measured-rate"),
        {
            "otlp": ON,
            "networkPolicy": {"restrictEgress": True},
            "webIdentity": ON,
            "keda": {"measuredRate": ON},
            "settings": topics("images,scans"),
        },
        topics("images,scans"),
    ),
    Case(
        "cpu",
        ("external-secret", "pod-monitor", "measured-rate", "scale-to-zero"),
        {
            "externalSecret": ON,
            "podMonitor": ON,
            "keda": {"measuredRate": ON, "minReplicaCount": 0, "pollingInterval": 15, "cooldownPeriod": 300},
        },
    ),
    Case(
        "cpu",
        ("kafka-oauth", "web-identity", "fixed-size", "index", "search-page"),
        {"kafka": {"login": "oauth"}, "webIdentity": ON, "keda": {"enabled": False}, "index": ON, "page": PAGE},
    ),
    Case(
        "cpu",
        ("lanes", "kafka-sasl-tls", "scale-to-zero"),
        {
            "kafka": {"login": "sasl-tls"},
            "keda": {"minReplicaCount": 0, "pollingInterval": 15, "cooldownPeriod": 300},
            "settings": topics(LANES),
        },
    ),
    Case(
        "cpu",
        ("kafka-msk-iam", "measured-rate", "lanes"),
        {"kafka": {"login": "msk-iam"}, "keda": {"measuredRate": ON}, "settings": topics(LANES)},
    ),
    Case("cpu", ("kafka-oauth", "topics-job"), {"kafka": {"login": "oauth"}, "topicsJob": ON}),
    Case("cpu", ("kafka-msk-iam", "index", "search-page"), {"kafka": {"login": "msk-iam"}, "index": ON, "page": PAGE}),
    Case("cpu", ("kafka-sasl-tls", "fixed-size"), {"kafka": {"login": "sasl-tls"}, "keda": {"enabled": False}}),
    Case("cpu", ("dashboards", "pod-monitor"), {"dashboards": ON, "podMonitor": ON}),
    Case("cpu", ("bundles", "bundles-job"), {"bundles": {"claim": "tagstream-bundles", "job": ON}}),
    Case(
        "gpu",
        ("kafka-mtls", "index", "search-page", "egress", "otlp", "pod-monitor"),
        {
            "device": "gpu",
            "kafka": {"login": "mtls"},
            "index": ON,
            "page": PAGE,
            "networkPolicy": {"restrictEgress": True},
            "otlp": ON,
            "podMonitor": ON,
        },
    ),
    Case(
        "gpu",
        ("gpu-mig", "gpu-nodes", "gpu-runtime-class"),
        {
            "device": "gpu",
            "worker": {
                "gpuResource": "nvidia.com/mig-1g.10gb",
                "runtimeClassName": "nvidia",
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {
                                    "matchExpressions": [
                                        {"key": "nvidia.com/gpu.compute.major", "operator": "Gt", "values": ["7"]}
                                    ]
                                }
                            ]
                        }
                    }
                },
            },
        },
    ),
    Case(
        "gpu",
        ("gpu-time-slicing", "gpu-processes", "bundles-image"),
        {
            "device": "gpu",
            "settings": {"TAGSTREAM_WORKERS": 3},
            "keda": {"lagThreshold": 30000},
            "worker": {
                "nodeSelector": {"nvidia.com/gpu.sharing-strategy": "time-slicing"},
                "resources": {"requests": {"cpu": "12", "memory": "18Gi"}, "limits": {"memory": "32Gi"}},
            },
            "bundles": {"image": "registry.example.com/tagstream-bundles:1"},
        },
    ),
]
OF_KUSTOMIZE_ALONE = {"backfill"}
"""A second release is a backfill, without the quota and the class."""


def by_kustomize(case: Case, folder: Path) -> list[Manifest]:
    here = os.path.relpath(K8S, folder.resolve())
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "tagstream"}, "data": dict(case.settings)}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{here}/overlays/{case.overlay}"],
        "components": [f"{here}/components/{name}" for name in case.components],
        "patches": [{"target": {"kind": "ConfigMap", "name": "tagstream"}, "patch": json.dumps(config)}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return kustomize(folder)


HELMS_LABELS = {
    *(f"app.kubernetes.io/{name}" for name in ("component", "instance", "managed-by", "version")),
    "helm.sh/chart",
}


def comparable(manifests: Sequence[Manifest]) -> dict[tuple[str, str], Any]:
    """Objects by kind and name. A change of settings starts new pods by a ConfigMap's name, or by an annotation."""
    found = {}
    for manifest in json.loads(re.sub(r'"tagstream-[a-z0-9]{10}"', '"tagstream"', json.dumps(manifests))):
        metadata = manifest["metadata"]
        metadata["labels"] = {name: metadata["labels"][name] for name in metadata["labels"].keys() - HELMS_LABELS}
        metadata.setdefault("namespace", NAME)
        for name in ("tagstream/lanes", "tagstream/measured-rate"):  # for components of kustomize alone
            metadata.get("annotations", {}).pop(name, None)
        if not metadata.get("annotations"):
            metadata.pop("annotations", None)
        manifest.get("spec", {}).get("template", {}).get("metadata", {}).get("annotations", {}).pop(
            "checksum/settings", None
        )
        key = manifest["kind"], metadata["name"]
        assert key not in found
        found[key] = ordered(manifest)
    return found


def ordered(value: Any) -> Any:
    """The value with its lists of objects sorted, but for init containers, which run one after another."""
    if isinstance(value, dict):
        return {
            key: list(map(ordered, each)) if key == "initContainers" else ordered(each) for key, each in value.items()
        }
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return sorted(map(ordered, value), key=lambda each: json.dumps(each, sort_keys=True))
    return value


@pytest.mark.parametrize("case", CASES, ids=str)
def test_helm_and_kustomize_make_equal_objects(case: Case, tmp_path: Path) -> None:
    helms, kustomizes = comparable(rendered(case.values)), comparable(by_kustomize(case, tmp_path))
    assert helms.keys() == kustomizes.keys()
    for key, manifest in helms.items():
        assert manifest == kustomizes[key], key


def test_the_documentations_two_examples_make_equal_objects(tmp_path: Path) -> None:
    checkout = os.path.relpath(ROOT, tmp_path.resolve())
    text = yaml.safe_dump(example("overlay")).replace("- tagstream/", f"- {checkout}/")
    (tmp_path / "kustomization.yaml").write_text(text)
    assert comparable(rendered(example("values"))) == comparable(kustomize(tmp_path))


def test_every_component_is_compared() -> None:
    compared = {name for case in CASES for name in case.components}
    assert set(COMPONENTS) - compared == OF_KUSTOMIZE_ALONE


ALL: Mapping[str, Any] = {
    **dict.fromkeys(("topicsJob", "index", "externalSecret", "podMonitor", "alerts", "dashboards"), ON),
    "page": PAGE,
    "otlp": ON,
    "kafka": {"login": "sasl-tls"},
    "bundles": {"claim": "models", "job": ON},
}


@pytest.mark.parametrize("values", [{}, ALL], ids=["defaults", "all"])
def test_helm_finds_no_fault(values: Mapping[str, Any]) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), values=values)


def test_a_release_of_another_name_has_names_labels_and_references_of_its_own() -> None:
    text = helm("template", "photos", str(CHART), values={**ALL, "existingSecret": "own"})
    manifests = [each for each in yaml.safe_load_all(text) if each]
    names = {(each["kind"], each["metadata"]["name"]) for each in manifests} - {
        *(("ConfigMap", f"tagstream-{each}") for each in ("overview", "quality")),
        *(("ExternalSecret", each) for each in ("own", "tagstream-index", "tagstream-page")),
    }
    assert all(name.startswith("photos-tagstream") for _, name in names)
    for each in manifests:
        spec = each.get("spec", {})
        if each["kind"] == "Deployment":
            assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    volumes = [
        volume["secret"]["secretName"]
        for each in manifests
        for volume in each.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", ())
        if "secret" in volume
    ]
    assert set(volumes) == {"own", "tagstream-index", "tagstream-page"}


def test_values_that_charts_have_by_convention_reach_every_deployments_pods() -> None:
    pod = {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "c"}], "affinity": {"podAffinity": {}}}
    part = {
        **pod,
        "extraEnv": [{"name": "E", "value": "f"}],
        "podAnnotations": {"g": "h"},
        "podLabels": {"i": "j"},
        "resources": {"requests": {"cpu": "3"}},
        "serviceAccount": {"create": False, "name": "own"},
    }
    values = {
        "worker": part,
        "index": {**ON, **part},
        "page": {**PAGE, **part},
        "imagePullSecrets": [{"name": "k"}],
        "image": {"pullPolicy": "Always"},
    }
    manifests = rendered(values)
    templates = [each["spec"]["template"] for each in manifests if each["kind"] == "Deployment"]
    assert len(templates) == 3
    assert "ServiceAccount" not in {each["kind"] for each in manifests}
    for template in templates:
        spec, (container,) = template["spec"], template["spec"]["containers"]
        shared = {**pod, "imagePullSecrets": [{"name": "k"}], "serviceAccountName": "own"}
        assert {name: spec[name] for name in shared} == shared
        assert (template["metadata"]["annotations"]["g"], template["metadata"]["labels"]["i"]) == ("h", "j")
        assert (container["imagePullPolicy"], container["resources"]["requests"]["cpu"]) == ("Always", "3")
        assert {"name": "E", "value": "f"} in container["env"]


def test_each_topic_has_a_trigger_and_each_lane_may_have_several() -> None:
    values = {"settings": topics("old:background, images,scans,older:background"), "keda": {"maxBackgroundReplicas": 2}}
    (scaled,) = [each["spec"] for each in rendered(values) if each["kind"] == "ScaledObject"]
    assert {each["name"]: each["metadata"]["topic"] for each in scaled["triggers"]} == {
        "live": "images",
        "live2": "scans",
        "background": "old",
        "background2": "older",
    }
    modifiers = {"target": "3058", "formula": "live + live2 + min(background + background2, 6116)"}
    assert scaled["advanced"]["scalingModifiers"] == modifiers


def test_a_digest_goes_before_the_tag() -> None:
    digest = "sha256:" + "0" * 64
    (worker,) = [each for each in rendered({"image": {"tag": "x", "digest": digest}}) if each["kind"] == "Deployment"]
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example.com/tagstream@{digest}"


def test_settings_of_the_user_go_before_those_of_the_device_and_the_login() -> None:
    own = {"TAGSTREAM_MEMORY": "3GiB", "TAGSTREAM_KAFKA_TLS_CA": "", "TAGSTREAM_MAX_BATCH": 1000000}
    manifests = rendered({"settings": own, "kafka": {"login": "mtls"}})
    (data,) = [each["data"] for each in manifests if each["kind"] == "ConfigMap"]
    assert {name: data[name] for name in own} == {**own, "TAGSTREAM_MAX_BATCH": "1000000"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"replicaCount": 3}, "replicaCount"),
        ({"device": "tpu"}, "device"),
        ({"settings": {"TAGSTREAM_BUCKETS": ["a"]}}, "TAGSTREAM_BUCKETS"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"page": ON}, "page.host is missing"),
        ({"page": {**PAGE, "existingSecret": "tagstream-index"}}, "a role that only reads"),
        ({"bundles": {"job": ON}}, "bundles.claim is missing"),
        ({"settings": topics("a:background")}, "a topic without :background"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_values_that_can_not_be_meant_are_refused(values: Mapping[str, Any], says: str) -> None:
    with pytest.raises(HelmFailed, match=re.escape(says)):
        rendered(values)


def test_the_chart_has_no_secret_and_no_password_and_the_page_reads_the_secret_of_its_own_role() -> None:
    manifests = rendered(ALL)
    assert "Secret" not in {each["kind"] for each in manifests}
    pairs = re.findall(r'"name": "(\w*(?:PASSWORD|SECRET|KEY|DSN|URL)\w*)", "value": "([^"]*)"', json.dumps(manifests))
    for manifest in manifests:
        if manifest["kind"] == "ConfigMap":
            pairs += [(name, value) for name, value in manifest["data"].items() if name.endswith("_FILE")]
    assert len(pairs) > 10
    assert [name for name, value in pairs if value and not value.startswith("/etc/tagstream/")] == []
    assert {each["metadata"]["name"] for each in manifests if each["kind"] == "ExternalSecret"} == set(SECRETS)
    (page,) = [
        each for each in manifests if each["metadata"]["name"] == "tagstream-page" and each["kind"] == "Deployment"
    ]
    volumes = {each["name"]: each for each in page["spec"]["template"]["spec"]["volumes"]}
    assert volumes["dsn"]["secret"]["secretName"] == "tagstream-page"


def is_command(words: Sequence[str]) -> bool:
    """Whether the words are a command, or one with arguments."""
    node: Any = command_tree()
    for word in words:
        commands = getattr(node, "commands", None)
        if commands is None:
            return True
        if word not in commands:
            return False
        node = commands[word]
    return not hasattr(node, "commands")


@pytest.mark.parametrize("values", [{}, ALL, {**ALL, "externalSecret": {"enabled": False}}], ids=["few", "all", "own"])
def test_the_notes_name_commands_objects_and_secrets_that_are_there(values: Mapping[str, Any], tmp_path: Path) -> None:
    said = notes(values, tmp_path / "chart")
    commands = re.findall(r"-- tagstream ((?:[a-z]+ ?)+)", said)
    assert commands
    assert [command for command in commands if not is_command(command.split())] == []
    kinds = {"deploy": "Deployment", "job": "Job"}
    there = {(each["kind"], each["metadata"]["name"]) for each in rendered(values)}
    assert {(kinds[kind], name) for kind, name in re.findall(r" (deploy|job)/([\w-]+)", said)} <= there
    wanted = SECRETS if "index" in values else SECRETS[:1]
    made = re.findall(r"create secret generic ([\w-]+)", said)
    assert made == ([] if values.get("externalSecret") == ON else [*wanted])


def notes(values: Mapping[str, Any], copy: Path) -> str:
    """What an installation prints. `helm template` leaves it out, so a copy of the chart has it in an object."""
    shutil.copytree(CHART, copy)
    shutil.move(copy / "templates" / "NOTES.txt", copy / "NOTES.txt")
    (copy / "templates" / "notes.yaml").write_text('notes: {{ tpl (.Files.Get "NOTES.txt") . | toJson }}')
    text = helm("template", NAME, str(copy), "--show-only", "templates/notes.yaml", values=values)
    return str(yaml.safe_load(text)["notes"])
