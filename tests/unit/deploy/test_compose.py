"""The compose file, read by Docker's own compose and checked with the worker's own settings."""

import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tagstream_index.page.access import LOOPBACK
from tagstream_index.page.server import require_safe
from tagstream_index.settings import IndexSettings
from tests.unit.deploy.tools import ROOT, Manifest, compose, version
from workers import settings
from workers.assembly.needs import worst_bytes
from workers.assembly.topics import wanted_topics
from workers.environment import examine, require
from workers.environment import read as read_environment

PROFILES = ["cpu", "gpu"]
WORKERS = {"cpu": "worker", "gpu": "worker-gpu"}
INDEXES = {"cpu": "index", "gpu": "index-gpu"}
PAGES = {"cpu": "page", "gpu": "page-gpu"}
FROM_OUR_IMAGE = {*WORKERS.values(), *INDEXES.values(), *PAGES.values()}
RUN_ONCE = {"topics", "bucket"}


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def services(profile: str) -> dict[str, Manifest]:
    found: dict[str, Manifest] = compose(profile)["services"]
    return found


@pytest.fixture
def worker(services: dict[str, Manifest], profile: str) -> Manifest:
    return services[WORKERS[profile]]


@pytest.fixture
def index(services: dict[str, Manifest], profile: str) -> Manifest:
    return services[INDEXES[profile]]


@pytest.fixture
def read(worker: Manifest, profile: str) -> settings.Settings:
    files = {secret["target"]: compose(profile)["secrets"][secret["source"]]["file"] for secret in worker["secrets"]}
    environment = {name: files.get(value, value) for name, value in worker["environment"].items()}
    return require(read_environment(environment), "kafka_servers", "s3_endpoint", "buckets")


def run_script(service: Manifest, folder: Path, program: str) -> list[str]:
    """Run a service's shell script here, with a `program` that only notes its arguments: one line a call."""
    shell, flags = service["entrypoint"]
    (script,) = service["command"]
    stand_in = folder / program
    stand_in.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n')
    stand_in.chmod(0o755)
    for name in ("access", "secret"):
        (folder / f"s3-{name}-key").write_text(f"the-{name}-key\n")
    # The file that compose prints could be read by compose again, so its dollars are doubled.
    here = script.replace("$$", "$").replace("/opt/kafka/bin/", f"{folder}/").replace("/run/secrets/", f"{folder}/")
    subprocess.run([shell, flags, here], env={"PATH": f"{folder}:{os.defpath}"}, check=True, timeout=20)
    return (folder / "calls").read_text().splitlines()


def secret_file(name: str) -> Path:
    return Path(compose("cpu")["secrets"][name]["file"])


def environment(service: Manifest) -> dict[str, str]:
    """A container's, with the files of its secrets where they lie here."""
    here = {secret["target"]: str(secret_file(secret["source"])) for secret in service["secrets"]}
    return {name: here.get(value, value) for name, value in service["environment"].items()}


def test_a_profile_adds_one_worker_the_index_and_its_page_to_the_servers(profile: str) -> None:
    servers = set(compose()["services"])
    assert servers == {"kafka", "topics", "minio", "bucket", "valkey", "postgresql"}
    assert set(compose(profile)["services"]) - servers == {WORKERS[profile], INDEXES[profile], PAGES[profile]}


def test_every_service_is_pinned_local_and_may_gain_nothing(services: dict[str, Manifest]) -> None:
    for name, service in services.items():
        _, _, tag = service["image"].partition(":")
        assert re.match(r"\d+\.\d+\.\d+|RELEASE\.\d{4}-\d\d-\d\dT", tag), service["image"]
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == ("on-failure:5" if name in RUN_ONCE else "unless-stopped")
        assert ("healthcheck" in service) is (name not in RUN_ONCE | FROM_OUR_IMAGE)  # ours is in the image
        for other, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in RUN_ONCE else "service_healthy"
            assert how == {"condition": expected, "required": True}
    assert any(service.get("ports") for service in services.values())
    for secret in compose()["secrets"].values():
        assert Path(secret["file"]).parent == ROOT / "deploy" / "compose" / "dev-only"
        assert "dev-only" in Path(secret["file"]).read_text()


def test_our_services_are_one_image_and_write_to_tmp_and_the_worker_to_its_own_state(
    services: dict[str, Manifest], profile: str
) -> None:
    target = {"cpu": "cpu", "gpu": "cuda"}[profile]
    for name in (WORKERS[profile], INDEXES[profile], PAGES[profile]):
        service = services[name]
        assert service["image"] == f"tagstream:{version()}-{target}"
        assert (service["build"]["target"], Path(service["build"]["context"])) == (target, ROOT)
        assert (service["read_only"], service["cap_drop"], service["tmpfs"]) == (True, ["ALL"], ["/tmp"])
        volumes = [(volume["type"], volume["target"], volume.get("source")) for volume in service.get("volumes", ())]
        assert volumes == ([("volume", "/var/lib/tagstream", None)] if name in WORKERS.values() else [])


def test_the_worker_accepts_its_settings_and_has_the_memory_and_the_time_that_they_need(
    worker: Manifest, read: settings.Settings, profile: str
) -> None:
    assert read.device == {"cpu": "cpu", "gpu": "cuda"}[profile]
    assert read.s3_access_key.get_secret_value() == "tagstream-dev-only"
    assert seconds(worker["stop_grace_period"]) >= read.drain_s + 10
    weights = 3 * 2**30 if profile == "gpu" else 64 * 2**20  # RAM++ in single precision; the compact tagger
    assert worst_bytes(read, 8, weights) <= int(worker["mem_limit"])


def test_the_gpu_worker_reserves_a_gpu() -> None:
    (device,) = compose("gpu")["services"]["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_the_index_writes_the_workers_outcomes_into_the_database(
    index: Manifest, read: settings.Settings, tmp_path: Path
) -> None:
    ours, wrong = examine(IndexSettings, environment(index), "kafka_servers", "index_dsn")
    assert wrong == []
    for name in ("kafka_servers", "output_topic", "input_topics", "dead_letter_topic"):
        assert getattr(ours, name) == getattr(read, name)
    dsn = urlsplit(ours.index_dsn.get_secret_value())
    database = compose()["services"]["postgresql"]["environment"]
    assert (dsn.hostname, dsn.port) == ("postgresql", 5432)
    assert (dsn.username, dsn.path) == (database["POSTGRES_USER"], f"/{database['POSTGRES_DB']}")
    assert dsn.password == secret_file("postgresql-password").read_text().strip()
    bare = {**index, "entrypoint": [word for word in index["entrypoint"] if word not in {"tini", "--"}]}
    assert run_script(bare, tmp_path, "tagstream") == ["index init --reader page", "index run"]


def test_the_page_reads_the_index_and_the_workers_bucket(
    services: dict[str, Manifest], read: settings.Settings, profile: str
) -> None:
    page = environment(services[PAGES[profile]])
    ours, wrong = examine(IndexSettings, page, "index_dsn", "s3_endpoint", "buckets")
    assert wrong == []
    for name in ("s3_endpoint", "s3_region", "s3_access_key", "s3_secret_key", "buckets"):
        assert getattr(ours, name) == getattr(read, name)
    dsn, writes = (urlsplit(secret_file(name).read_text().strip()) for name in ("page-dsn", "index-dsn"))
    assert page["TAGSTREAM_INDEX_DSN_FILE"] == str(secret_file("page-dsn"))
    assert (dsn.username, dsn.hostname, dsn.port, dsn.path) == ("page", writes.hostname, writes.port, writes.path)
    assert dsn.password == secret_file("page-password").read_text().strip() != writes.password
    assert "create role page login" in compose()["configs"]["page-role"]["content"]


def test_the_images_own_check_finds_the_port_of_the_index_and_of_the_page(
    services: dict[str, Manifest], index: Manifest, profile: str
) -> None:
    (asked,) = re.findall(r"TAGSTREAM_HTTP_PORT'\) or (\d+)", (ROOT / "Dockerfile").read_text())
    page = services[PAGES[profile]]
    for service in (index, page):
        assert "TAGSTREAM_HTTP_PORT" not in service["environment"]
        assert [str(port["target"]) for port in service["ports"]] == [asked]
    assert index["environment"]["TAGSTREAM_INDEX_HTTP_PORT"] == asked
    assert page["command"][page["command"].index("--port") + 1] == asked
    names = [name for option, name in pairwise(page["command"]) if option == "--name"]
    assert set(names) <= set(LOOPBACK), "its port is published on loopback alone"
    require_safe("0.0.0.0", token="", behind_proxy="--behind-proxy" in page["command"], names=names)


def test_the_topics_are_made_as_the_worker_would_make_them(read: settings.Settings, tmp_path: Path) -> None:
    calls = run_script(compose()["services"]["topics"], tmp_path, "kafka-topics.sh")
    servers = ",".join(read.kafka_servers)
    wanted = {
        f"--bootstrap-server {servers} --create --if-not-exists --topic {topic.name}"
        f" --partitions {topic.partitions(6)}"
        + "".join(f" --config {name}={value}" for name, value in topic.settings(1).items())
        for topic in wanted_topics(read)
    }
    assert set(calls) == wanted


def test_the_bucket_that_is_made_tells_kafka_of_its_images(
    worker: Manifest, read: settings.Settings, tmp_path: Path
) -> None:
    minio, ours = compose()["services"]["minio"]["environment"], worker["environment"]
    assert minio["MINIO_ROOT_USER_FILE"] == ours["TAGSTREAM_S3_ACCESS_KEY_FILE"]
    assert minio["MINIO_ROOT_PASSWORD_FILE"] == ours["TAGSTREAM_S3_SECRET_KEY_FILE"]
    assert minio["MINIO_NOTIFY_KAFKA_ENABLE_TAGSTREAM"] == "on"
    assert minio["MINIO_NOTIFY_KAFKA_TOPIC_TAGSTREAM"] in read.topics
    assert minio["MINIO_NOTIFY_KAFKA_BROKERS_TAGSTREAM"] in read.kafka_servers
    (bucket,) = read.buckets
    assert run_script(compose()["services"]["bucket"], tmp_path, "mc") == [
        f"alias set store {read.s3_endpoint} the-access-key the-secret-key",
        f"mb --ignore-existing store/{bucket}",
        f"event add --ignore-existing store/{bucket} arn:minio:sqs::TAGSTREAM:kafka --event put,delete",
    ]


def seconds(duration: str) -> float:
    """Compose writes 45s, 1m0s."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([hms])", duration))
