"""The component `index`: what its pod may do, what it reads, and that it indexes."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from index.tests.support import settings_of
from tagstream_index.database import connect
from tagstream_index.process import STALLED_S
from tagstream_index.settings import IndexSettings
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.postgresql import PostgreSQL
from tests.fixtures import Unique
from tests.unit.deploy.test_processes import READ_ONLY_ROOT
from tests.unit.deploy.tools import (
    COMPONENTS,
    INDEX,
    OVERLAYS,
    ROOT,
    Manifest,
    overlay,
    pod_environment,
    the,
    worker_of,
)
from workers.backends.kafka import ensure_topics
from workers.environment import examine_as

pytestmark = pytest.mark.slow

LOGINS = [(), *((name,) for name in COMPONENTS if name.startswith("kafka-"))]
KAFKA = {
    name: name for name in ("kafka-user", "kafka-password", "kafka-token-scope", "kafka-ca", "kafka-cert", "kafka-key")
}
SECRETS = {"tagstream-index": {"dsn": "postgresql://a:b@db/c"}, "tagstream": {**KAFKA, "s3-secret-key": "secret"}}
SECRETS["tagstream"]["kafka-token-endpoint"] = "https://auth.example/token"


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> Sequence[Manifest]:
    return overlay(request.param, "index")


def pod(manifests: Sequence[Manifest], *, index: bool = True) -> Manifest:
    found: Manifest = the(manifests, "Deployment", index=index)["spec"]["template"]["spec"]
    return found


def steps(manifests: Sequence[Manifest]) -> list[Manifest]:
    return [*pod(manifests)["initContainers"], *pod(manifests)["containers"]]


def mounted(manifests: Sequence[Manifest], folder: Path) -> dict[str, str]:
    """The pod's environment, with its mounts of Secrets as folders below `folder`."""
    logins = SECRETS["tagstream"] if "TAGSTREAM_KAFKA_PASSWORD_FILE" in settings_data(manifests) else {}
    environment = pod_environment(manifests, logins, index=True)
    for volume in (each for each in pod(manifests)["volumes"] if "secret" in each):
        secret = volume["secret"]
        [at] = [
            mount["mountPath"]
            for mount in worker_of(manifests, index=True)["volumeMounts"]
            if mount["name"] == volume["name"]
        ]
        here = folder / volume["name"]
        here.mkdir()
        known = SECRETS[secret["secretName"]]
        paths = {item["key"]: item["path"] for item in secret.get("items", ())} or dict(zip(known, known, strict=True))
        for key, path in paths.items():
            (here / path).write_text(known[key])
        environment = {name: value.replace(f"{at}/", f"{here}/") for name, value in environment.items()}
    return environment


def settings_data(manifests: Sequence[Manifest]) -> dict[str, str]:
    found: dict[str, str] = the(manifests, "ConfigMap")["data"]
    return found


def test_its_pod_may_do_no_more_than_a_worker(manifests: Sequence[Manifest]) -> None:
    ours, workers = pod(manifests), pod(manifests, index=False)
    assert ours["securityContext"] == workers["securityContext"]
    assert ours["serviceAccountName"] == the(manifests, "ServiceAccount", index=True)["metadata"]["name"] == INDEX
    for step in steps(manifests):
        assert step["securityContext"] == workers["containers"][0]["securityContext"]
        assert {mount["mountPath"] for mount in step["volumeMounts"] if not mount.get("readOnly")} == {"/tmp"}
        assert step["image"] == worker_of(manifests)["image"]
    assert ours["automountServiceAccountToken"] is False


def test_tables_are_made_before_it_runs(manifests: Sequence[Manifest]) -> None:
    assert [step["args"] for step in steps(manifests)] == [["index", "init"], ["index", "run"]]
    first, second = steps(manifests)
    assert (first["env"], first["envFrom"]) == (second["env"], second["envFrom"])
    assert second["envFrom"] == worker_of(manifests)["envFrom"]


@pytest.mark.parametrize("login", LOGINS, ids="+".join)
@pytest.mark.parametrize(
    "others", [("index", "otlp", "web-identity"), ("web-identity", "otlp", "index")], ids=["first", "last"]
)
def test_it_accepts_its_settings(login: tuple[str, ...], others: tuple[str, ...], tmp_path: Path) -> None:
    manifests = overlay("cpu", *login, *others) if others[0] != "index" else overlay("cpu", *others, *login)
    read, wrong = examine_as(IndexSettings, mounted(manifests, tmp_path), "kafka_servers", "index_dsn")
    assert wrong == []
    assert read.index_dsn.get_secret_value() == "postgresql://a:b@db/c"
    assert (read.kafka_user == "kafka-user") is (login in {("kafka-sasl-tls",), ("kafka-oauth",)})
    assert read.output_topic == settings_data(manifests)["TAGSTREAM_OUTPUT_TOPIC"]
    assert read.s3_secret_key.get_secret_value() == "", "the index has no keys of the storage"
    assert not list(tmp_path.rglob("s3-*"))


def test_its_selectors_choose_its_pods_alone(manifests: Sequence[Manifest]) -> None:
    deployment = the(manifests, "Deployment", index=True)["spec"]
    policy, budget = (the(manifests, kind, index=True)["spec"] for kind in ("NetworkPolicy", "PodDisruptionBudget"))
    workers = the(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    for selector in (deployment["selector"], policy["podSelector"], budget["selector"]):
        assert selector["matchLabels"].items() <= deployment["template"]["metadata"]["labels"].items()
        assert not selector["matchLabels"].items() <= workers
    assert budget["maxUnavailable"] == 1


def test_its_port_is_asked_and_scraped(manifests: Sequence[Manifest]) -> None:
    container = worker_of(manifests, index=True)
    assert container["ports"] == [{"name": "http", "containerPort": IndexSettings().index_http_port}]
    assert pod_environment(manifests, {}, index=True)["TAGSTREAM_INDEX_HTTP_PORT"] == str(
        IndexSettings().index_http_port
    )
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert probes == {
        name: {"path": path, "port": "http"}
        for name, path in {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}.items()
    }
    alive = container["livenessProbe"]
    assert alive["periodSeconds"] * alive["failureThreshold"] >= STALLED_S
    policies = [the(manifests, "NetworkPolicy", index=index)["spec"]["ingress"] for index in (True, False)]
    assert policies[0] == policies[1]


def test_it_may_call_dns_kafka_postgresql_and_the_collector(manifests: Sequence[Manifest]) -> None:
    policy = the(manifests, "NetworkPolicy", index=True)["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    anywhere = [port for rule in policy["egress"] if "to" not in rule for port in rule["ports"]]
    reach = {number for port in anywhere for number in range(port["port"], port.get("endPort", port["port"]) + 1)}
    assert reach == {5432, *range(9092, 9099)}
    assert sorted(port["port"] for rule in policy["egress"] if "to" in rule for port in rule["ports"]) == [53, 53, 4318]
    said = (ROOT / "docs" / "guide" / "deploying.md").read_text()
    assert "ports 9092 to 9098" in said
    assert "`dsn`" in said


@pytest.mark.servers
@pytest.mark.usefixtures("may_mount")
def test_what_its_containers_run_indexes_and_writes_to_tmp_alone(
    manifests: Sequence[Manifest], kafka: ApacheKafka, postgresql: PostgreSQL, unique: Unique, tmp_path: Path
) -> None:
    topic, tmp = unique("pod-index"), tmp_path / "tmp"
    tmp.mkdir()
    ensure_topics(kafka.servers, {topic: (1, {})})
    environment = mounted(manifests, tmp_path) | {
        "TAGSTREAM_KAFKA_SERVERS": kafka.servers,
        "TAGSTREAM_OUTPUT_TOPIC": topic,
        "TAGSTREAM_INDEX_GROUP": topic,
        "TAGSTREAM_INDEX_SCHEMA": topic.replace("-", "_"),
        "TAGSTREAM_INDEX_HTTP_PORT": "off",
        "TMPDIR": str(tmp),
        "TMP_HERE": str(tmp),
        "STATE_HERE": str(tmp),
    }
    Path(environment["TAGSTREAM_INDEX_DSN_FILE"]).write_text(postgresql.dsn)
    for step, more in zip(steps(manifests), ([], ["--until-idle", "1"]), strict=True):
        command = [*READ_ONLY_ROOT, sys.executable, "-m", "workers", *step["args"], *more]
        ran = subprocess.run(
            command, env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True, timeout=100
        )
        assert ran.returncode == 0, ran.stderr
    settings = settings_of(postgresql, topic.replace("-", "_"))
    with closing(connect(settings)) as tables:
        assert tables.execute("select count(*) from progress").fetchone() == (1,)
