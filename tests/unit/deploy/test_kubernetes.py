"""The Kubernetes files, rendered by kubectl: rules for every manifest of every variant."""

import functools
import inspect
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tagstream_index.page.server import require_safe
from tagstream_index.process import STALLED_S
from tagstream_index.settings import IndexSettings
from tests.unit.deploy.dockerfile import Dockerfile
from tests.unit.deploy.tools import (
    COMPONENTS,
    INDEX,
    K8S,
    OVERLAYS,
    PAGE,
    ROOT,
    TOPICS,
    Manifest,
    documented,
    kustomize,
    mounted_environment,
    named,
    overlay,
    pod_environment,
    pod_of,
    the,
    version,
    worker_of,
)
from workers.assembly.needs import worst_bytes
from workers.environment import examine, read, require
from workers.service.watchdog import Watchdog
from workers.settings import Settings

pytestmark = pytest.mark.slow

OLDEST_KUBERNETES = "1.31"
COMBINATIONS = [
    (),
    ("otlp", "pod-monitor", "alerts", "bundles", "kafka-sasl-tls"),
    ("otlp", "pod-monitor", "bundles", "kafka-mtls"),
    ("otlp", "egress", "several-topics", "web-identity", "measured-rate"),
    ("external-secret", "pod-monitor", "measured-rate", "scale-to-zero"),
    ("kafka-sasl-tls", "otlp", "pod-monitor", "egress", "bundles", "backfill"),
    ("kafka-mtls", "several-topics", "web-identity", "backfill"),
    ("kafka-oauth", "scale-to-zero", "topics-job"),
    ("kafka-msk-iam", "web-identity", "index", "search-page"),
    ("kafka-sasl-tls", "fixed-size"),
    ("fixed-size",),
    ("dashboards", "pod-monitor"),
    ("bundles", "bundles-job"),
    ("bundles-image",),
    ("index", "search-page", "kafka-sasl-tls", "otlp", "egress", "pod-monitor"),
    ("kafka-oauth", "web-identity", "fixed-size", "index", "search-page"),
    ("index", "kafka-mtls", "backfill"),
    ("lanes", "kafka-sasl-tls", "scale-to-zero", "topics-job"),
    ("kafka-mtls", "lanes", "fixed-size"),
    ("kafka-oauth", "lanes", "egress", "index"),
    ("lanes", "kafka-msk-iam"),
    ("measured-rate", "kafka-mtls", "lanes", "pod-monitor"),
]
GPU_COMBINATIONS = [
    ("gpu-mig", "gpu-nodes", "gpu-runtime-class", "backfill"),
    ("gpu-time-slicing", "gpu-nodes"),
    ("gpu-processes", "gpu-nodes", "bundles"),
]
VARIANTS = [(base, names) for base in OVERLAYS for names in COMBINATIONS] + [
    ("gpu", names) for names in GPU_COMBINATIONS
]
in_every_variant = pytest.mark.parametrize(("base", "components"), VARIANTS, ids=str)
TARGETS = {"cpu": "cpu", "gpu": "cuda"}
VALUES = {
    "redis-url": "redis://:password@valkey:6379/0",
    "cache-key": "0123456789abcdef" * 4,
    "kafka-token-endpoint": "https://auth.example/token",
    "dsn": "postgresql://a:b@db/c",
}
READS = "postgresql://page:b@db/c"


def secrets(components: Sequence[str]) -> dict[str, dict[str, str]]:
    """The Secrets by name, with the keys that the documentation's table wants for these components."""
    rows = re.findall(r"^\| (`.+`)(?:, in .*)? \| .* \| (?:always|with `([\w-]+)`) \|$", documented(), re.MULTILINE)
    assert {component for _, component in rows} >= {"", "index", *LOGINS} - {"kafka-msk-iam"}
    wanted = [key for cell, of in rows if of in ("", *components) for key in re.findall(r"`([\w-]+)`", cell)]
    own = {key: VALUES.get(key, key) for key in wanted if key != "dsn"}
    return {"tagstream": own, INDEX: {"dsn": VALUES["dsn"]}, PAGE: {"dsn": READS}}


LOGINS = {name for name in COMPONENTS if name.startswith("kafka-")}


def read_settings(manifests: Sequence[Manifest], folder: Path, *components: str) -> Settings:
    environment = mounted_environment(manifests, secrets(components), folder)
    return require(read(environment), "kafka_servers", "s3_endpoint", "buckets")


def read_index(manifests: Sequence[Manifest], folder: Path, name: str, *components: str, needed: str) -> IndexSettings:
    found, wrong = examine(
        IndexSettings, mounted_environment(manifests, secrets(components), folder, name), *needed.split()
    )
    assert wrong == []
    return found


def templates(manifests: Sequence[Manifest]) -> Iterator[tuple[str, str, Manifest]]:
    for each in manifests:
        if "template" in each.get("spec", {}):
            yield each["kind"], each["metadata"]["name"], each["spec"]["template"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def test_every_component_is_among_the_combinations_that_are_tried() -> None:
    assert {name for _, names in VARIANTS for name in names} == set(COMPONENTS)


@pytest.mark.parametrize("kubernetes", [OLDEST_KUBERNETES, None], ids=["oldest", "newest"])
@in_every_variant
def test_rendered_manifests_are_valid(base: str, components: Sequence[str], kubernetes: str | None) -> None:
    for manifest in overlay(base, *components):
        must_be_valid(json.dumps(manifest), kubernetes)


OF_OTHERS = {"ScaledObject", "TriggerAuthentication", "ExternalSecret", "PodMonitor", "PrometheusRule"}
"""Kinds of KEDA and other operators; KEDA's own schemas judge the first two in tests/kube."""


@functools.cache  # most manifests are the same in most variants
def must_be_valid(written: str, kubernetes: str | None) -> None:
    """Raises where a manifest, in JSON, does not fit the schema of its kind."""
    import kubernetes_validate  # takes a second

    manifest = json.loads(written)
    if manifest["kind"] not in OF_OTHERS:
        kubernetes_validate.validate(manifest, kubernetes or kubernetes_validate.latest_version(), strict=True)


@in_every_variant
def test_every_pod_may_do_as_little_as_it_can(base: str, components: Sequence[str]) -> None:
    """No root, no new rights, no token of the API, the image of this version, and named folders to write to."""
    manifests = overlay(base, *components)
    accounts = {each["metadata"]["name"]: each for each in manifests if each["kind"] == "ServiceAccount"}
    user, group = map(int, Dockerfile(ROOT / "Dockerfile").last(TARGETS[base], "USER").value.split(":"))
    for _, name, template in templates(manifests):
        pod = template["spec"]
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            "runAsUser": user,
            "runAsGroup": group,
            "fsGroup": group,
            "fsGroupChangePolicy": "OnRootMismatch",
        }
        assert pod["automountServiceAccountToken"] is accounts[name]["automountServiceAccountToken"] is False
        assert pod["serviceAccountName"] == name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod.get("priorityClassName") == ("tagstream-backfill" if name == "tagstream-backfill" else None)
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        state = set() if name in (INDEX, PAGE, TOPICS) else {"/var/lib/tagstream"}
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["image"] == f"registry.example.com/tagstream:{version()}-{TARGETS[base]}"
            writable = {
                mount["mountPath"]: mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")
            }
            assert writable.keys() == {"/tmp", *state, *(["/bundles"] if name == "tagstream-bundles" else [])}
            assert all(volumes[writable[path]]["emptyDir"]["sizeLimit"] for path in writable.keys() - {"/bundles"})


@in_every_variant
def test_every_manifest_is_in_the_namespace_and_is_no_secret(base: str, components: Sequence[str]) -> None:
    """Except cluster-wide manifests, and the dashboards, which Grafana finds in any namespace."""
    elsewhere = [
        each
        for each in overlay(base, *components)
        if each["metadata"].get("namespace") != "tagstream" and "grafana_dashboard" not in each["metadata"]["labels"]
    ]
    assert {each["kind"] for each in elsewhere} <= {"PriorityClass"}
    assert "Secret" not in {each["kind"] for each in overlay(base, *components)}


BESIDE = ("kafka-sasl-tls", "otlp", "egress", "bundles")


@pytest.mark.parametrize("base", OVERLAYS)
def test_every_selector_chooses_the_pods_of_its_own_name_alone(base: str) -> None:
    """Live workers, their index, its page, the jobs and a backfill: no two share a name."""
    live = overlay(base, *BESIDE, "index", "search-page", "bundles-job", "topics-job", "pod-monitor")
    backfill = overlay(base, *BESIDE, "backfill")
    assert not {(each["kind"], each["metadata"]["name"]) for each in live} & {
        (each["kind"], each["metadata"]["name"]) for each in backfill
    }
    manifests = [*live, *backfill]
    labels = {name: template["metadata"]["labels"] for _, name, template in templates(manifests)}
    assert len(labels) == 6
    chosen = [
        (each["metadata"]["name"], [name for name in labels if selector.items() <= labels[name].items()])
        for each in manifests
        for selector in selectors(each)
    ]
    assert len(chosen) == 16
    assert chosen == [(name, [name]) for name, _ in chosen]
    monitor = the(live, "PodMonitor")["spec"]
    (expression,) = monitor["selector"]["matchExpressions"]
    jobs = [labels[name][monitor["jobLabel"]] for name in ("tagstream", "tagstream-backfill", INDEX)]
    assert (expression["key"], expression["operator"], expression["values"]) == (monitor["jobLabel"], "In", jobs)
    assert ["backfill" in job for job in jobs] == [False, True, False]  # which the alerts go by


def selectors(manifest: Manifest) -> list[dict[str, str]]:
    spec = manifest.get("spec", {})
    if manifest["kind"] == "Service":
        return [spec["selector"]]
    spread = spec.get("template", {}).get("spec", {}).get("topologySpreadConstraints", ())
    found = [spec.get("selector"), spec.get("podSelector"), *(each["labelSelector"] for each in spread)]
    return [each["matchLabels"] for each in found if each and "matchLabels" in each]


@in_every_variant
def test_every_process_accepts_its_settings(base: str, components: Sequence[str], tmp_path: Path) -> None:
    """With the keys of the Secret that the documentation wants for these components, and no others."""
    manifests, identity = overlay(base, *components), "web-identity" in components
    worker = read_settings(manifests, tmp_path / "worker", *components)
    assert worker.device == {"cpu": "cpu", "gpu": "cuda"}[base]
    assert (worker.aws_web_identity_token_file is not None) is identity
    assert worker.s3_secret_key.get_secret_value() == ("" if identity else "s3-secret-key")
    assert worker.cache_key.get_secret_value() == VALUES["cache-key"]
    assert worker.transactional_id == "tagstream-7c9d8b6f5-x2x4z", "its pod's name"
    expected = dict.fromkeys(LOGINS, "SASL_SSL") | {"kafka-mtls": "SSL"}
    assert (
        worker.kafka_security_protocol == (*(expected[name] for name in components if name in LOGINS), "PLAINTEXT")[0]
    )
    queue = ("tagstream-backfill", "images.backfill") if "backfill" in components else ("tagstream", "images")
    assert (worker.group, worker.live_topic) == queue
    assert worker.background_topics == (("images.backfill",) if "lanes" in components else ())
    if "index" in components:
        index = read_index(manifests, tmp_path / "i", INDEX, *components, needed="kafka_servers index_dsn")
        assert index.index_dsn.get_secret_value() == VALUES["dsn"]
        assert (index.output_topic, index.kafka_user) == (worker.output_topic, worker.kafka_user)
        assert index.kafka_security_protocol == worker.kafka_security_protocol
        assert index.s3_secret_key.get_secret_value() == "", "the index has no keys of the storage"
        assert not list((tmp_path / "i").rglob("s3-*"))
    if "search-page" in components:
        page = read_index(manifests, tmp_path / "p", PAGE, *components, needed="index_dsn s3_endpoint buckets")
        assert (page.kafka_servers, page.kafka_tls_ca) == ((), None)
        assert page.s3_secret_key == worker.s3_secret_key
        assert page.index_dsn.get_secret_value() == READS


@pytest.mark.parametrize("base", OVERLAYS)
def test_the_numbers_of_a_worker_fit_together(base: str, tmp_path: Path) -> None:
    manifests = overlay(base)
    read, pod, worker = read_settings(manifests, tmp_path), pod_of(manifests), worker_of(manifests)
    assert str(read.state_dir) in {mount["mountPath"] for mount in worker["volumeMounts"]}
    assert pod["terminationGracePeriodSeconds"] >= read.drain_s + 10
    watchdog = inspect.signature(Watchdog).parameters
    ends_itself_s = watchdog["every_s"].default * watchdog["patience"].default
    assert lasts(worker["livenessProbe"]) >= 5 * ends_itself_s
    (row,) = re.findall(r"^\| `/startupz` \| .*$", documented(), re.MULTILINE)
    assert f" {lasts(worker['startupProbe'])} s" in row
    threads = pod_environment(manifests, secrets(())["tagstream"])
    cpus = worker["resources"]["requests"]["cpu"]
    assert threads["OMP_NUM_THREADS"] == threads["TAGSTREAM_DECODE_THREADS"] == cpus
    limit = worker["resources"]["limits"]["memory"]
    weights = 3 * 2**30 if base == "gpu" else 64 * 2**20  # RAM++ in single precision; the compact tagger
    assert worst_bytes(read, read.decode_threads, weights) <= int(limit.removesuffix("Gi")) * 2**30
    index = overlay(base, "index")
    assert lasts(worker_of(index, INDEX)["livenessProbe"]) >= STALLED_S


def test_the_processes_of_a_worker_have_memory_processors_and_partitions(tmp_path: Path) -> None:
    manifests = overlay("gpu", "gpu-processes")
    read, worker = read_settings(manifests, tmp_path), worker_of(manifests)
    assert isinstance(read.workers, int)
    assert read.decode_threads // read.workers == 4
    limit = int(worker["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
    assert worst_bytes(read, read.decode_threads, 3 * 2**30, read.workers) <= limit
    alone, together = (the(each, "ScaledObject")["spec"] for each in (overlay("gpu"), manifests))
    assert together["maxReplicaCount"] * read.workers == the(overlay("cpu"), "ScaledObject")["spec"]["maxReplicaCount"]
    lags = [int(each["triggers"][0]["metadata"]["lagThreshold"]) for each in (alone, together)]
    assert lags[1] == lags[0] * read.workers


def lasts(probe: Manifest) -> int:
    return int(probe["periodSeconds"] * probe["failureThreshold"])


@pytest.mark.parametrize(
    ("name", "port"),
    [("", Settings().http_port), (INDEX, IndexSettings().index_http_port), (PAGE, 8082)],
    ids=["worker", "index", "page"],
)
def test_its_port_is_asked_scraped_and_open_to_nothing_else(name: str, port: int) -> None:
    manifests = overlay("cpu", "index", "search-page", "pod-monitor")
    container = worker_of(manifests, name)
    assert container["ports"] == [{"name": "http", "containerPort": port}]
    probed = {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}
    probes = {each: container[f"{each}Probe"]["httpGet"] for each in probed if f"{each}Probe" in container}
    assert probes == {each: {"path": probed[each], "port": "http"} for each in probes}
    assert probes.keys() >= {"liveness", "readiness"}
    ((rule,),) = [the(manifests, "NetworkPolicy", name)["spec"]["ingress"]]
    asks = "ingress-nginx" if name == PAGE else "monitoring"
    asked = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": asks}}}
    assert rule == {"from": [asked], "ports": [{"port": "http", "protocol": "TCP"}]}
    environment = pod_environment(manifests, {}, name)
    if name == PAGE:
        host, told = (container["args"][container["args"].index(each) + 1] for each in ("--host", "--name"))
        assert (told, "--behind-proxy" in container["args"]) == ("$(PAGE_NAME)", True)
        require_safe(host, token="", behind_proxy=True, names=[environment["PAGE_NAME"]])
        assert [each["targetPort"] for each in the(manifests, "Service", PAGE)["spec"]["ports"]] == ["http"]
    else:
        assert environment["TAGSTREAM_INDEX_HTTP_PORT" if name else "TAGSTREAM_HTTP_PORT"] == str(port)
        (monitored,) = the(manifests, "PodMonitor")["spec"]["podMetricsEndpoints"]
        assert (monitored["path"], monitored["port"]) == ("/metrics", "http")


def reach(manifests: Sequence[Manifest], name: str = "") -> set[tuple[str, int]]:
    """Where a NetworkPolicy lets its pods call: namespaces, "" for anywhere, and ports."""
    policy = the(manifests, "NetworkPolicy", name)["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    return {
        (peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] if peer else "", number)
        for rule in policy["egress"]
        for peer in rule.get("to", [None])
        for port in rule["ports"]
        for number in range(port["port"], port.get("endPort", port["port"]) + 1)
    }


def test_a_pod_may_call_its_dependencies_and_nothing_else() -> None:
    """Each address in the files' own settings, `name.namespace.svc:port`, has its rule, and each rule but DNS's one."""
    for more in ((), ("kafka-sasl-tls", "backfill")):
        manifests = overlay("cpu", *more, "otlp", "egress")
        settings = [*pod_environment(manifests, secrets(more)["tagstream"]).values(), "valkey.valkey.svc:6379"]
        called = {(space, int(port)) for space, port in re.findall(r"\.([a-z-]+)\.svc:(\d+)", " ".join(settings))}
        assert len(called) == 4
        assert reach(manifests) == called | {("kafka", 9092), ("kafka", 9093), ("kube-system", 53)}
    manifests = overlay("cpu", "index", "search-page")
    dns, collector = ("kube-system", 53), ("observability", 4318)
    assert reach(manifests, INDEX) == {dns, collector, ("", 5432), *(("", port) for port in range(9092, 9099))}
    assert "ports 9092 to 9098" in documented()
    assert reach(manifests, PAGE) == {dns, ("", 5432), ("", 443), ("", 9000)}


ALONE = {*LOGINS, "fixed-size", "backfill", "lanes", "bundles-image"}
TOGETHER = tuple(name for name in COMPONENTS if name not in ALONE)


def by_name(manifests: Sequence[Manifest]) -> dict[tuple[str, str], Any]:
    return {(each["kind"], each["metadata"]["name"]): named(each) for each in manifests}


@pytest.mark.parametrize(
    "others", [(), ("lanes",), ("lanes", "fixed-size"), ("backfill",), ("backfill", "fixed-size")], ids="+".join
)
@pytest.mark.parametrize("login", sorted(LOGINS))
def test_components_in_the_opposite_order_give_the_same(login: str, others: Sequence[str]) -> None:
    """One list and its reverse: each pair of its components is rendered in both orders."""
    names = [name for name in (*others, login, *TOGETHER) if not ("lanes" in others and name == "several-topics")]
    assert by_name(overlay("gpu", *names)) == by_name(overlay("gpu", *names[::-1]))


def test_bundles_in_an_image_are_mounted_in_any_order() -> None:
    names = ("bundles-image", *(name for name in TOGETHER if name != "bundles"))
    assert by_name(overlay("gpu", *names)) == by_name(overlay("gpu", *names[::-1]))


def test_two_logins_at_kafka_are_refused() -> None:
    with pytest.raises(AssertionError, match="testing value /spec failed"):
        overlay("cpu", "kafka-mtls", "kafka-oauth")


def test_every_file_belongs_to_a_kustomization() -> None:
    files = [path for path in K8S.rglob("*") if path.is_file() and path.name != "kustomization.yaml"]
    assert [path for path in files if path.name not in (path.parent / "kustomization.yaml").read_text()] == []


def example(name: str) -> dict[str, Any]:
    found = re.search(rf"<!-- example:{name} -->\n```yaml\n(.*?)```", documented(), re.DOTALL)
    assert found is not None
    return dict(yaml.safe_load(found[1]))


@pytest.mark.parametrize(
    ("examples", "name"), [(["overlay"], "tagstream"), (["overlay", "backfill"], "tagstream-backfill")]
)
def test_the_documentations_own_overlay_works(tmp_path: Path, examples: list[str], name: str) -> None:
    """The second example is an addition to a copy of the first, and either may have the patch."""
    written, *added = map(example, examples)
    assert [each.keys() for each in added] == [{"components"}] * (len(examples) - 1)
    for each in added:
        written["components"] += each["components"]
    folder, checkout = tmp_path / "overlay", os.path.relpath(ROOT, (tmp_path / "overlay").resolve())
    folder.mkdir()
    text = yaml.safe_dump(written | example("patch")).replace("- tagstream/", f"- {checkout}/")
    (folder / "kustomization.yaml").write_text(text)
    manifests = kustomize(folder)
    assert the(manifests, "Deployment")["metadata"]["name"] == name
    assert worker_of(manifests)["image"] == f"registry.my-company.com/tagstream:{version()}-cuda"
    read = read_settings(manifests, tmp_path / "secrets", "kafka-sasl-tls")
    assert (read.group, read.topics) == (name, ("scans.backfill",))
    assert (read.tagger, read.kafka_security_protocol) == ("/bundles/ram-plus", "SASL_SSL")
