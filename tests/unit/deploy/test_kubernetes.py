"""The Kubernetes files, rendered by kubectl and checked with Kubernetes' own schemas and the worker's own settings."""

import functools
import inspect
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.unit.deploy import foreign_kinds
from tests.unit.deploy.tools import (
    COMPONENTS,
    K8S,
    OVERLAYS,
    ROOT,
    Manifest,
    kinds,
    kustomize,
    overlay,
    pod_environment,
    the,
    version,
    worker_of,
)
from workers import settings
from workers.cli.needs import worst_bytes
from workers.environment import read, require
from workers.service.watchdog import Watchdog

pytestmark = pytest.mark.slow

OLDEST_KUBERNETES = "1.31"
SECRETS_AT = "/etc/tagstream/secrets/"
IDENTITY_AT = "/etc/tagstream/identity/"
SECRET_VALUES = {
    "s3-access-key": "access",
    "s3-secret-key": "secret",
    "redis-url": "redis://:password@valkey:6379/0",
    "cache-key": "0123456789abcdef" * 4,
    "kafka-user": "tagstream",
    "kafka-password": "password",
    "kafka-token-endpoint": "https://auth.example/token",
    "kafka-token-scope": "",
    "kafka-ca": "PEM",
    "kafka-cert": "PEM",
    "kafka-key": "PEM",
}
COMBINATIONS = [
    (),
    ("otlp", "pod-monitor", "alerts", "bundles", "kafka-sasl-tls"),
    ("otlp", "pod-monitor", "bundles", "kafka-mtls"),
    ("otlp", "egress", "several-topics", "web-identity", "measured-rate"),
    ("external-secret", "pod-monitor", "measured-rate", "scale-to-zero"),
    ("scale-to-zero",),
    ("kafka-sasl-tls", "otlp", "pod-monitor", "egress", "bundles", "backfill"),
    ("kafka-mtls", "several-topics", "web-identity", "backfill"),
    ("kafka-oauth", "scale-to-zero"),
    ("kafka-msk-iam", "web-identity"),
    ("kafka-sasl-tls", "fixed-size"),
    ("fixed-size",),
    ("dashboards", "pod-monitor"),
    ("bundles", "bundles-job"),
    ("bundles-image",),
    ("index", "search-page", "kafka-sasl-tls", "otlp", "egress", "pod-monitor"),
    ("kafka-oauth", "web-identity", "fixed-size", "index", "search-page"),
    ("index", "kafka-mtls", "backfill"),
]
GPU_COMBINATIONS = [
    ("gpu-mig", "gpu-nodes", "gpu-runtime-class", "backfill"),
    ("gpu-time-slicing", "gpu-nodes"),
]
VARIANTS = [(base, names) for base in OVERLAYS for names in COMBINATIONS] + [
    ("gpu", names) for names in GPU_COMBINATIONS
]


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> Sequence[Manifest]:
    return overlay(request.param)


@pytest.fixture
def pod(manifests: Sequence[Manifest]) -> Manifest:
    spec: Manifest = the(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def worker(manifests: Sequence[Manifest]) -> Manifest:
    return worker_of(manifests)


def read_settings(manifests: Sequence[Manifest], folder: Path) -> settings.Settings:
    """The worker's settings as its pod would read them, with the Secret's files in `folder`."""
    for key, value in SECRET_VALUES.items():
        (folder / key).write_text(value)
    environment = pod_environment(manifests, SECRET_VALUES)
    (folder / "token").write_text("a token")
    here = {
        name: value.replace(SECRETS_AT, f"{folder}/").replace(IDENTITY_AT, f"{folder}/")
        for name, value in environment.items()
    }
    return require(read(here), "kafka_servers", "s3_endpoint", "buckets")


def test_there_is_an_overlay_for_processors_and_one_for_gpus() -> None:
    assert OVERLAYS == ["cpu", "gpu"]


def test_every_component_is_among_the_combinations_that_are_tried() -> None:
    assert {name for _, names in VARIANTS for name in names} == set(COMPONENTS)


@pytest.mark.parametrize("kubernetes", [OLDEST_KUBERNETES, None], ids=["oldest", "newest"])
@pytest.mark.parametrize(("base", "components"), VARIANTS, ids=str)
def test_what_is_rendered_is_valid(base: str, components: Sequence[str], kubernetes: str | None) -> None:
    for manifest in overlay(base, *components):
        must_be_valid(json.dumps(manifest), kubernetes)


@functools.cache  # most manifests are the same in most variants
def must_be_valid(written: str, kubernetes: str | None) -> None:
    """Raises where a manifest, in JSON, does not fit the schema of its kind."""
    import kubernetes_validate  # takes a second

    manifest = json.loads(written)
    if manifest["kind"] in foreign_kinds.SCHEMAS:
        foreign_kinds.validate(manifest)
    else:
        kubernetes_validate.validate(manifest, kubernetes or kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(("base", "components"), VARIANTS, ids=str)
def test_the_worker_accepts_its_settings(base: str, components: Sequence[str], tmp_path: Path) -> None:
    manifests = overlay(base, *components)
    read = read_settings(manifests, tmp_path)
    assert read.s3_secret_key.get_secret_value() == ("" if "web-identity" in components else "secret")
    assert (read.aws_web_identity_token_file is not None) is ("web-identity" in components)
    assert read.cache_key.get_secret_value() == SECRET_VALUES["cache-key"]
    assert read.device == {"cpu": "cpu", "gpu": "cuda"}[base]
    expected = dict.fromkeys(("kafka-sasl-tls", "kafka-oauth", "kafka-msk-iam"), "SASL_SSL") | {"kafka-mtls": "SSL"}
    protocols = [expected[name] for name in components if name in expected]
    assert [read.kafka_security_protocol] == (protocols or ["PLAINTEXT"])


def test_settings_that_an_overlay_changes_roll_the_pods() -> None:
    plain, changed = overlay("cpu"), overlay("cpu", "otlp")
    names = [the(each, "ConfigMap")["metadata"]["name"] for each in (plain, changed)]
    assert names[0] != names[1]
    assert worker_of(changed)["envFrom"] == [{"configMapRef": {"name": names[1]}}]


def test_no_secret_is_in_the_files() -> None:
    assert all("Secret" not in kinds(overlay(name)) for name in OVERLAYS)


def test_the_documentation_names_every_key_of_the_secret() -> None:
    said = (ROOT / "docs" / "guide" / "deploying.md").read_text()
    assert [key for key in SECRET_VALUES if f"`{key}`" not in said] == []


def test_an_image_has_the_version_of_the_project(worker: Manifest) -> None:
    name, _, tag = worker["image"].partition(":")
    assert name == "registry.example.com/tagstream"
    assert tag in {f"{version()}-cpu", f"{version()}-cuda"}


def test_only_the_state_folder_and_tmp_can_be_written(pod: Manifest, worker: Manifest) -> None:
    mounts = {mount["name"]: mount for mount in worker["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    writable = {mount["mountPath"]: volumes[name] for name, mount in mounts.items() if not mount.get("readOnly")}
    assert set(writable) == {"/var/lib/tagstream", "/tmp"}
    assert all(volume["emptyDir"]["sizeLimit"] for volume in writable.values())
    assert {kind for volume in pod["volumes"] for kind in volume} <= {"name", "emptyDir", "secret"}


def test_the_state_folder_is_the_one_that_is_mounted(manifests: Sequence[Manifest], tmp_path: Path) -> None:
    assert str(read_settings(manifests, tmp_path).state_dir) in {
        mount["mountPath"] for mount in worker_of(manifests)["volumeMounts"]
    }


def test_the_drain_fits_into_the_grace_period_with_room_to_leave(
    manifests: Sequence[Manifest], pod: Manifest, tmp_path: Path
) -> None:
    read = read_settings(manifests, tmp_path)
    assert pod["terminationGracePeriodSeconds"] >= read.drain_s + 10


def test_loading_the_models_has_the_time_that_is_documented_and_no_more(worker: Manifest) -> None:
    probe = worker["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 600
    (row,) = re.findall(r"^\| `/startupz` \| .*$", (ROOT / "docs" / "guide" / "deploying.md").read_text(), re.MULTILINE)
    assert " 600 s" in row


def test_liveness_leaves_the_worker_time_to_end_itself_with_a_reason(worker: Manifest) -> None:
    watchdog = inspect.signature(Watchdog).parameters
    ends_itself_s = watchdog["every_s"].default * watchdog["patience"].default
    probe = worker["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 5 * ends_itself_s


def test_threads_follow_the_processors_that_are_asked_for(manifests: Sequence[Manifest], worker: Manifest) -> None:
    environment = pod_environment(manifests, SECRET_VALUES)
    cpus = worker["resources"]["requests"]["cpu"]
    assert environment["OMP_NUM_THREADS"] == environment["TAGSTREAM_DECODE_THREADS"] == cpus


def test_memory_holds_every_budget_the_largest_image_the_children_the_model_and_the_program(
    manifests: Sequence[Manifest], worker: Manifest, tmp_path: Path
) -> None:
    read = read_settings(manifests, tmp_path)
    limit, unit = worker["resources"]["limits"]["memory"][:-2], worker["resources"]["limits"]["memory"][-2:]
    assert unit == "Gi"
    weights = 3 * 2**30 if read.device == "cuda" else 64 * 2**20  # RAM++ in single precision; the compact tagger
    assert worst_bytes(read, read.decode_threads, weights) <= int(limit) * 2**30


def test_selectors_choose_the_workers_and_nothing_else(manifests: Sequence[Manifest]) -> None:
    deployment = the(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    budget = the(manifests, "PodDisruptionBudget")
    selectors = [
        deployment["spec"]["selector"],
        budget["spec"]["selector"],
        the(manifests, "NetworkPolicy")["spec"]["podSelector"],
        *(each["labelSelector"] for each in spread),
    ]
    for selector in selectors:
        assert selector["matchLabels"].items() <= labels
        assert "app.kubernetes.io/name" in selector["matchLabels"]


def test_a_worker_may_call_its_dependencies_and_nothing_else() -> None:
    """Each address in the files' own settings, `name.namespace.svc:port`, has its rule, and each rule but DNS's one."""
    manifests = overlay("cpu", "otlp", "egress")
    policy = the(manifests, "NetworkPolicy")["spec"]
    pod = the(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= pod.items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    allowed = {
        (peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], port["port"])
        for rule in policy["egress"]
        for peer in rule["to"]
        for port in rule["ports"]
    }
    settings_text = " ".join([*pod_environment(manifests, SECRET_VALUES).values(), "redis://valkey.valkey.svc:6379/0"])
    called = {(space, int(port)) for space, port in re.findall(r"\.([a-z-]+)\.svc:(\d+)", settings_text)}
    assert len(called) == 4
    assert allowed == called | {("kafka", 9093), ("kube-system", 53)}


def test_the_autoscaler_reads_what_the_worker_reads(manifests: Sequence[Manifest]) -> None:
    scaled = the(manifests, "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == the(manifests, "Deployment")["metadata"]["name"]
    assert scaled["scaleTargetRef"]["envSourceContainerName"] == worker_of(manifests)["name"]
    environment = pod_environment(manifests, SECRET_VALUES)
    trigger = scaled["triggers"][0]
    names = {key: value for key, value in trigger["metadata"].items() if key.endswith("FromEnv")}
    assert set(names) == {"bootstrapServersFromEnv", "consumerGroupFromEnv", "topicFromEnv"}
    assert all(environment[name] for name in names.values())


def test_the_autoscaler_begins_a_new_group_where_the_worker_does(manifests: Sequence[Manifest], tmp_path: Path) -> None:
    (trigger,) = the(manifests, "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"]["offsetResetPolicy"] == read_settings(manifests, tmp_path).offset_reset


def test_the_autoscaler_owns_the_number_of_workers(manifests: Sequence[Manifest]) -> None:
    assert "replicas" not in the(manifests, "Deployment")["spec"]
    scaled = the(manifests, "ScaledObject")["spec"]
    assert 1 <= scaled["minReplicaCount"] < scaled["maxReplicaCount"]


def gpu_pod(*components: str) -> Manifest:
    found: Manifest = the(overlay("gpu", *components), "Deployment")["spec"]["template"]["spec"]
    return found


def test_a_worker_on_a_slice_of_a_gpu_asks_for_that_and_for_no_whole_one() -> None:
    resources = worker_of(overlay("gpu", "gpu-mig"))["resources"]
    for kind in ("requests", "limits"):
        assert {name: count for name, count in resources[kind].items() if "nvidia.com/" in name} == {
            "nvidia.com/mig-1g.10gb": "1"
        }


def test_workers_that_share_a_gpu_run_where_gpus_are_shared() -> None:
    plain, shared = gpu_pod(), gpu_pod("gpu-time-slicing")
    assert shared["nodeSelector"] == {"nvidia.com/gpu.sharing-strategy": "time-slicing"}
    assert shared["containers"] == plain["containers"]


def test_nodes_are_chosen_whose_gpus_compute_what_the_overlay_sets(tmp_path: Path) -> None:
    assert read_settings(overlay("gpu"), tmp_path).precision == "bf16"
    affinity = gpu_pod("gpu-nodes")["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    ampere = 8  # its compute capability, major; the operator is Gt
    ((expression,),) = [term["matchExpressions"] for term in affinity["nodeSelectorTerms"]]
    assert expression == {"key": "nvidia.com/gpu.compute.major", "operator": "Gt", "values": [str(ampere - 1)]}


@pytest.mark.parametrize("components", COMBINATIONS, ids="+".join)
def test_all_that_belongs_together_is_in_one_namespace(components: Sequence[str]) -> None:
    """But for what belongs to all namespaces, and the dashboards, which Grafana finds in any."""
    elsewhere = [
        each
        for each in overlay("cpu", *components)
        if each["metadata"].get("namespace") != "tagstream" and "grafana_dashboard" not in each["metadata"]["labels"]
    ]
    assert {each["kind"] for each in elsewhere} <= {"PriorityClass"}


@pytest.mark.parametrize(
    "others", [(), ("kafka-sasl-tls",), ("kafka-mtls",), ("kafka-oauth",), ("kafka-msk-iam",)], ids="+".join
)
def test_a_fixed_size_needs_no_autoscaler(others: Sequence[str]) -> None:
    manifests = overlay("cpu", *others, "fixed-size")
    assert the(manifests, "Deployment")["spec"]["replicas"] == 2
    assert not {"ScaledObject", "TriggerAuthentication"} & kinds(manifests)


def test_the_autoscaler_asks_for_tokens_and_for_aws_roles_as_the_worker_does(tmp_path: Path) -> None:
    by_token, by_role = (overlay("cpu", name) for name in ("kafka-oauth", "kafka-msk-iam"))
    for manifests, mechanism in ((by_token, "OAUTHBEARER"), (by_role, "AWS_MSK_IAM")):
        (trigger,) = the(manifests, "ScaledObject")["spec"]["triggers"]
        assert trigger["metadata"]["sasl"] == "oauthbearer"
        assert read_settings(manifests, tmp_path).kafka_sasl_mechanism == mechanism
    asked = {
        each["parameter"]: each["key"] for each in the(by_token, "TriggerAuthentication")["spec"]["secretTargetRef"]
    }
    assert asked["oauthTokenEndpointUri"] == "kafka-token-endpoint"
    assert read_settings(by_token, tmp_path).kafka_token_endpoint == SECRET_VALUES["kafka-token-endpoint"]
    (trigger,) = the(by_role, "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"]["awsRegion"] == read_settings(by_role, tmp_path).aws_region
    assert the(by_role, "TriggerAuthentication")["spec"] == {"podIdentity": {"provider": "aws"}}


@pytest.mark.parametrize("component", ["kafka-sasl-tls", "kafka-mtls"])
def test_the_autoscaler_logs_in_to_kafka_as_the_worker_does(component: str, tmp_path: Path) -> None:
    manifests = overlay("cpu", component)
    (trigger,) = the(manifests, "ScaledObject")["spec"]["triggers"]
    login = the(manifests, "TriggerAuthentication")
    assert trigger["authenticationRef"] == {"name": login["metadata"]["name"]}
    assert trigger["metadata"]["tls"] == "enable"
    assert {each["key"] for each in login["spec"]["secretTargetRef"]} <= SECRET_VALUES.keys()
    if component == "kafka-sasl-tls":
        mechanism = read_settings(manifests, tmp_path).kafka_sasl_mechanism
        assert trigger["metadata"]["sasl"] == mechanism.lower().replace("-", "_").replace("scram_sha_", "scram_sha")


def test_spans_say_which_pod_they_are_of() -> None:
    environment = pod_environment(overlay("cpu", "otlp"), SECRET_VALUES)
    assert environment["OTEL_RESOURCE_ATTRIBUTES"] == "k8s.pod.name=tagstream-7c9d8b6f5-x2x4z,k8s.node.name=node-1"
    assert read({name: value for name, value in environment.items() if name.startswith("OTEL_")}).otlp_traces


def test_an_external_secret_makes_the_secret_that_the_workers_mount() -> None:
    manifests = overlay("cpu", "external-secret")
    (volume,) = [
        each for each in the(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"] if "secret" in each
    ]
    assert the(manifests, "ExternalSecret")["spec"]["target"]["name"] == volume["secret"]["secretName"]


def test_a_pod_monitor_finds_live_workers_a_backfills_and_the_index_as_jobs() -> None:
    spec = the(overlay("cpu", "pod-monitor"), "PodMonitor")["spec"]
    (expression,) = spec["selector"]["matchExpressions"]
    assert spec["jobLabel"] == expression["key"]
    found = [
        the(overlay("cpu", *components), "Deployment", index="index" in components)["spec"]["template"]["metadata"][
            "labels"
        ][expression["key"]]
        for components in ((), ("backfill",), ("index",))
    ]
    assert (expression["operator"], expression["values"]) == ("In", found)
    assert ["backfill" in job for job in found] == [False, True, False]  # which the alerts go by


def test_dashboards_are_found_by_grafanas_sidecar() -> None:
    maps = [each for each in overlay("cpu", "dashboards") if "grafana_dashboard" in each["metadata"].get("labels", {})]
    assert {each["metadata"]["labels"]["grafana_dashboard"] for each in maps} == {"1"}
    shown = {name: text for each in maps for name, text in each["data"].items()}
    assert shown == {path.name: path.read_text() for path in (ROOT / "deploy/monitoring/dashboards").glob("*.json")}
    assert {each["kind"] for each in maps} == {"ConfigMap"}
    assert len(maps) == len(shown) > 1


def test_every_file_belongs_to_a_kustomization() -> None:
    files = [path for path in K8S.rglob("*") if path.is_file() and path.name != "kustomization.yaml"]
    assert [path for path in files if path.name not in (path.parent / "kustomization.yaml").read_text()] == []


@pytest.mark.parametrize(
    ("examples", "name"), [(["overlay"], "tagstream"), (["overlay", "backfill"], "tagstream-backfill")]
)
def test_the_documentations_own_overlay_works(tmp_path: Path, examples: list[str], name: str) -> None:
    """The second example is what a copy of the first has besides."""
    checkout = os.path.relpath(ROOT, tmp_path.resolve())
    said = (ROOT / "docs" / "guide" / "deploying.md").read_text().replace("- tagstream/", f"- {checkout}/")
    found = [re.search(rf"<!-- example:{each} -->\n```yaml\n(.*?)```", said, re.DOTALL) for each in examples]
    written, *added = [yaml.safe_load(each[1]) for each in found if each]
    assert [each.keys() for each in added] == [{"components"}] * (len(examples) - 1)
    for each in added:
        written["components"] += each["components"]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(written))
    manifests = kustomize(tmp_path)
    assert the(manifests, "Deployment")["metadata"]["name"] == name
    assert worker_of(manifests)["image"] == f"registry.my-company.com/tagstream:{version()}-cuda"
    read = read_settings(manifests, tmp_path)
    assert read.group == name
    assert read.tagger == "/bundles/ram-plus"
    assert read.kafka_security_protocol == "SASL_SSL"


def test_the_documentation_names_every_component() -> None:
    said = (ROOT / "docs" / "guide" / "deploying.md").read_text()
    assert [name for name in COMPONENTS if f"`{name}`" not in said] == []
