"""Prometheus, Grafana, Jaeger and the collector refer to each other and to the compose file's services rightly."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.deploy.tools import ROOT, Manifest, compose

EYES = {"prometheus", "collector", "jaeger", "grafana"}
NO_PROGRAM_THAT_ASKS = {"collector", "jaeger"}
FOLDER = ROOT / "deploy" / "compose"
WORKERS = {"cpu": "worker", "gpu": "worker-gpu"}
INDEXES = {"cpu": "index", "gpu": "index-gpu"}


@pytest.fixture(params=sorted(WORKERS))
def worker(request: pytest.FixtureRequest) -> Manifest:
    found: Manifest = compose(request.param, observed=True)["services"][WORKERS[request.param]]
    return found


@pytest.fixture
def services() -> dict[str, Manifest]:
    found: dict[str, Manifest] = compose("cpu", observed=True)["services"]
    return found


def document(*parts: str) -> Any:
    return yaml.safe_load(FOLDER.joinpath(*parts).read_text())


def binds(service: Manifest) -> list[Manifest]:
    return [volume for volume in service.get("volumes", []) if volume["type"] == "bind"]


def mounted(service: Manifest) -> dict[str, Path]:
    return {volume["target"]: Path(volume["source"]) for volume in binds(service)}


def here(service: Manifest, path: str) -> Path:
    for target, source in mounted(service).items():
        if path == target or path.startswith(f"{target}/"):
            return Path(f"{source}{path.removeprefix(target)}")
    raise AssertionError(f"nothing is mounted at {path}")


def test_the_file_adds_eyes_and_changes_nothing_else_of_the_servers() -> None:
    plain, observed = compose()["services"], compose(observed=True)["services"]
    assert set(observed) - set(plain) == EYES
    assert {name: observed[name] for name in plain} == plain


def test_they_run_as_the_other_services_do_and_only_read_their_mounts(services: dict[str, Manifest]) -> None:
    for name in EYES:
        service = services[name]
        assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?", service["image"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == "unless-stopped"
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}
        assert ("healthcheck" in service) == (name not in NO_PROGRAM_THAT_ASKS)
        assert [source for source in mounted(service).values() if not source.exists()] == []
        assert all(volume["read_only"] for volume in binds(service))


def test_the_collector_refuses_spans_before_its_memory_is_full(services: dict[str, Manifest]) -> None:
    limiter = document("collector.yaml")["processors"]["memory_limiter"]
    assert limiter["limit_mib"] * 2**20 < int(services["collector"]["mem_limit"])
    assert next(iter(document("collector.yaml")["processors"])) == "memory_limiter"


@pytest.mark.parametrize("profile", sorted(WORKERS))
@pytest.mark.parametrize(("job", "ours"), [("tagstream", WORKERS), ("tagstream-index", INDEXES)])
def test_prometheus_finds_every_worker_and_the_index(profile: str, job: str, ours: dict[str, str]) -> None:
    service = compose(profile, observed=True)["services"][ours[profile]]
    [config] = [each for each in document("prometheus.yml")["scrape_configs"] if each["job_name"] == job]
    [found] = config["dns_sd_configs"]
    assert service["networks"]["default"]["aliases"] == found["names"]
    assert [port["target"] for port in service["ports"]] == [found["port"]]


def provisioned(grafana: Manifest, what: str) -> Any:
    [config] = here(grafana, f"/etc/grafana/provisioning/{what}").glob("*")
    found = yaml.safe_load(config.read_text())
    assert found["apiVersion"] == 1
    return found


def test_grafana_shows_the_projects_dashboards_without_a_password_and_accepts_no_login(
    services: dict[str, Manifest],
) -> None:
    grafana, environment = services["grafana"], services["grafana"]["environment"]
    [provider] = provisioned(grafana, "dashboards")["providers"]
    assert provider["type"] == "file"
    assert here(grafana, provider["options"]["path"]) == ROOT / "deploy" / "helm" / "tagstream" / "dashboards"
    assert here(grafana, environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).is_file()
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] != "Admin"
