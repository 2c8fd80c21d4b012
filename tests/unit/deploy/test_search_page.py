"""The component `search-page`: what its pod may do, what it reads, who reaches it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tagstream_index.page.server import require_safe
from tagstream_index.settings import IndexSettings
from tests.unit.deploy.tools import COMPONENTS, PAGE, Manifest, overlay, settings_of, the, worker_of
from workers.environment import examine_as

pytestmark = pytest.mark.slow

LOGINS = [(), ("web-identity",), *((name,) for name in COMPONENTS if name.startswith("kafka-"))]


def own(manifests: Sequence[Manifest], kind: str) -> Manifest:
    (found,) = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == PAGE]
    spec: Manifest = found.get("spec", found)
    return spec


def container(manifests: Sequence[Manifest]) -> dict[str, Any]:
    (found,) = own(manifests, "Deployment")["template"]["spec"]["containers"]
    return dict(found)


@pytest.mark.parametrize("login", LOGINS, ids="+".join)
def test_it_accepts_its_settings(login: tuple[str, ...], tmp_path: Path) -> None:
    manifests = overlay("cpu", *login, "search-page")
    (tmp_path / "dsn").write_text("postgresql://a:b@db/c")
    for name in ("s3-access-key", "s3-secret-key", "token"):
        (tmp_path / name).write_text(name)
    environment = {
        **settings_of(manifests)["data"],
        **{each["name"]: each["value"] for each in container(manifests)["env"]},
    }
    places = {mount["mountPath"] for mount in container(manifests)["volumeMounts"]}
    for name, value in environment.items():
        folder, _, file = value.rpartition("/")
        if value.startswith("/etc/"):
            assert folder in places, name
            environment[name] = str(tmp_path / file)
    read, wrong = examine_as(IndexSettings, environment, "index_dsn", "s3_endpoint", "buckets")
    assert wrong == []
    assert (read.kafka_servers, read.kafka_tls_ca) == ((), None)
    assert read.s3_secret_key.get_secret_value() == ("" if "web-identity" in login else "s3-secret-key")


def test_its_pod_may_do_no_more_than_a_worker() -> None:
    manifests = overlay("cpu", "search-page")
    pod, workers = (own(manifests, "Deployment"), the(manifests, "Deployment")["spec"])
    assert pod["template"]["spec"]["securityContext"] == workers["template"]["spec"]["securityContext"]
    assert container(manifests)["securityContext"] == worker_of(manifests)["securityContext"]
    assert container(manifests)["image"] == worker_of(manifests)["image"]
    writable = {mount["mountPath"] for mount in container(manifests)["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp"}


def test_a_proxy_in_front_is_said_and_reaches_its_port_alone() -> None:
    manifests = overlay("cpu", "search-page")
    arguments = container(manifests)["args"]
    assert "--behind-proxy" in arguments
    require_safe(arguments[arguments.index("--host") + 1], token="", behind_proxy=True)
    policy, service = own(manifests, "NetworkPolicy"), own(manifests, "Service")
    labels = own(manifests, "Deployment")["template"]["metadata"]["labels"].items()
    assert policy["podSelector"]["matchLabels"].items() <= labels
    assert service["selector"].items() <= labels
    ((rule,), (port,)) = (policy["ingress"], service["ports"])
    assert (
        [each["port"] for each in rule["ports"]] == [port["targetPort"]] == [container(manifests)["ports"][0]["name"]]
    )
    assert sorted(each["port"] for rule in policy["egress"] if "to" not in rule for each in rule["ports"]) == [
        443,
        5432,
        9000,
    ]
