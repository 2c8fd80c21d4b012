"""The compose file, read by Docker's own compose and checked with the worker's own settings."""

import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tagstream_index.settings import IndexSettings
from tests.unit.deploy.tools import ROOT, Manifest, compose, version
from workers import settings
from workers.cli.needs import worst_bytes
from workers.cli.topics import wanted_topics
from workers.environment import examine_as, require
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
    """The worker's settings as its container would read them."""
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


def test_without_a_profile_only_the_servers_come_up() -> None:
    assert set(compose()["services"]) == {"kafka", "topics", "minio", "bucket", "valkey", "postgresql"}


def test_a_profile_adds_one_worker_the_index_and_its_page(profile: str) -> None:
    added = set(compose(profile)["services"]) - set(compose()["services"])
    assert added == {WORKERS[profile], INDEXES[profile], PAGES[profile]}


def test_the_page_reads_the_index_and_the_workers_bucket(
    services: dict[str, Manifest], worker: Manifest, index: Manifest, read: settings.Settings, profile: str
) -> None:
    page = services[PAGES[profile]]
    here = {secret["target"]: str(secret_file(secret["source"])) for secret in page["secrets"]}
    environment = {name: here.get(value, value) for name, value in page["environment"].items()}
    ours, wrong = examine_as(IndexSettings, environment, "index_dsn", "s3_endpoint", "buckets")
    assert wrong == []
    for name in ("s3_endpoint", "s3_region", "s3_access_key", "s3_secret_key", "buckets"):
        assert getattr(ours, name) == getattr(read, name)
    assert environment["TAGSTREAM_INDEX_DSN_FILE"] == str(secret_file(index["secrets"][0]["source"]))
    assert (page["image"], page["build"], page["read_only"]) == (worker["image"], worker["build"], True)
    ((port,), command) = (page["ports"], page["command"])
    asked = re.findall(r"TAGSTREAM_HTTP_PORT'\) or (\d+)", (ROOT / "Dockerfile").read_text())
    assert [str(port["target"]), command[command.index("--port") + 1]] == [*asked, *asked]
    assert not page.get("volumes")


def test_the_worker_accepts_its_settings(read: settings.Settings, profile: str) -> None:
    assert read.device == {"cpu": "cpu", "gpu": "cuda"}[profile]
    assert read.s3_access_key.get_secret_value() == "tagstream-dev-only"


def test_every_image_has_an_exact_version(services: dict[str, Manifest]) -> None:
    for service in services.values():
        _, _, tag = service["image"].partition(":")
        assert re.match(r"\d+\.\d+\.\d+|RELEASE\.\d{4}-\d\d-\d\dT", tag), service["image"]


def secret_file(name: str) -> Path:
    return Path(compose("cpu")["secrets"][name]["file"])


def test_the_index_writes_what_the_worker_publishes_into_the_database(
    index: Manifest, worker: Manifest, read: settings.Settings
) -> None:
    (secret,) = index["secrets"]
    here = {secret["target"]: str(secret_file(secret["source"]))}
    environment = {name: here.get(value, value) for name, value in index["environment"].items()}
    ours, wrong = examine_as(IndexSettings, environment, "kafka_servers", "index_dsn")
    assert wrong == []
    assert (ours.kafka_servers, ours.output_topic) == (read.kafka_servers, read.output_topic)
    assert (ours.input_topics, ours.dead_letter_topic) == (read.input_topics, read.dead_letter_topic)
    dsn = urlsplit(ours.index_dsn.get_secret_value())
    postgresql = compose()["services"]["postgresql"]
    database = postgresql["environment"]
    assert (dsn.hostname, dsn.port) == ("postgresql", 5432)
    assert (dsn.username, dsn.path) == (database["POSTGRES_USER"], f"/{database['POSTGRES_DB']}")
    assert dsn.password == secret_file("postgresql-password").read_text().strip()
    assert (index["image"], index["build"]) == (worker["image"], worker["build"])


def test_the_index_makes_its_tables_before_it_runs(index: Manifest, tmp_path: Path) -> None:
    index = {**index, "entrypoint": [word for word in index["entrypoint"] if word not in {"tini", "--"}]}
    assert run_script(index, tmp_path, "tagstream") == ["index init", "index run"]


def test_the_images_own_check_finds_the_port_of_the_index(index: Manifest) -> None:
    asked = re.findall(r"TAGSTREAM_HTTP_PORT'\) or (\d+)", (ROOT / "Dockerfile").read_text())
    assert "TAGSTREAM_HTTP_PORT" not in index["environment"]
    assert asked == [index["environment"]["TAGSTREAM_INDEX_HTTP_PORT"]]
    assert [port["target"] for port in index["ports"]] == [int(asked[0])]


def test_the_index_may_write_to_tmp_alone(index: Manifest, worker: Manifest) -> None:
    for name in ("read_only", "cap_drop", "security_opt", "tmpfs"):
        assert index[name] == worker[name]
    assert not index.get("volumes")


def test_the_worker_is_built_from_the_dockerfiles_target(worker: Manifest, profile: str) -> None:
    target = {"cpu": "cpu", "gpu": "cuda"}[profile]
    assert worker["image"] == f"tagstream:{version()}-{target}"
    assert worker["build"]["target"] == target
    assert Path(worker["build"]["context"]) == ROOT


def test_every_server_says_whether_it_is_well(services: dict[str, Manifest]) -> None:
    without = {name for name, service in services.items() if "healthcheck" not in service}
    assert without == RUN_ONCE | (FROM_OUR_IMAGE & set(services))  # ours is in the image


def test_nothing_starts_before_what_it_needs(services: dict[str, Manifest]) -> None:
    for service in services.values():
        for other, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in RUN_ONCE else "service_healthy"
            assert how == {"condition": expected, "required": True}
            assert "healthcheck" in services[other] or other in RUN_ONCE


def test_what_runs_once_is_tried_again_but_not_for_ever(services: dict[str, Manifest]) -> None:
    for name, service in services.items():
        assert service["restart"] == ("on-failure:5" if name in RUN_ONCE else "unless-stopped")


def test_no_port_is_open_to_other_machines(services: dict[str, Manifest]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_the_worker_may_write_to_its_state_and_tmp_alone(worker: Manifest) -> None:
    assert worker["read_only"] is True
    assert worker["cap_drop"] == ["ALL"]
    assert worker["security_opt"] == ["no-new-privileges:true"]
    assert worker["tmpfs"] == ["/tmp"]
    assert [(volume["type"], volume["target"]) for volume in worker["volumes"]] == [("volume", "/var/lib/tagstream")]


def test_no_service_may_gain_privileges(services: dict[str, Manifest]) -> None:
    assert {tuple(service["security_opt"]) for service in services.values()} == {("no-new-privileges:true",)}


def test_each_worker_has_a_state_folder_of_its_own(worker: Manifest) -> None:
    assert all("source" not in volume for volume in worker["volumes"])


def test_the_drain_fits_into_the_grace_period(worker: Manifest, read: settings.Settings) -> None:
    assert seconds(worker["stop_grace_period"]) >= read.drain_s + 10


def test_the_workers_memory_limit_holds_what_it_takes_at_worst(
    worker: Manifest, read: settings.Settings, profile: str
) -> None:
    weights = 3 * 2**30 if profile == "gpu" else 64 * 2**20  # RAM++ in single precision; the compact tagger
    assert worst_bytes(read, 8, weights) <= int(worker["mem_limit"])


def test_the_gpu_worker_reserves_a_gpu() -> None:
    (device,) = compose("gpu")["services"]["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_the_credentials_are_marked_as_for_development_only() -> None:
    for secret in compose()["secrets"].values():
        path = Path(secret["file"])
        assert path.parent == ROOT / "deploy" / "compose" / "dev-only"
        assert "dev-only" in path.read_text()


def test_the_topics_that_are_made_are_those_the_worker_uses(read: settings.Settings, tmp_path: Path) -> None:
    calls = run_script(compose()["services"]["topics"], tmp_path, "kafka-topics.sh")
    made = [call.split("--topic ")[1].split()[0] for call in calls]
    assert set(made) == {*read.input_topics, read.output_topic, read.dead_letter_topic, read.skipped_topic}
    servers = ",".join(read.kafka_servers)
    assert all(f"--bootstrap-server {servers} --create --if-not-exists" in call for call in calls)
    input_topics = [call for call in calls if call.split("--topic ")[1].split()[0] in read.input_topics]
    assert all("--config compression.type=producer" in call for call in input_topics)


def test_the_topics_are_made_as_the_worker_would_make_them(read: settings.Settings, tmp_path: Path) -> None:
    calls = run_script(compose()["services"]["topics"], tmp_path, "kafka-topics.sh")
    made = {call.split("--topic ")[1] for call in calls}
    assert made == {
        f"{topic.name} --partitions {topic.partitions(6)}"
        + "".join(f" --config {name}={value}" for name, value in topic.settings(1).items())
        for topic in wanted_topics(read)
    }


def test_the_bucket_that_is_made_tells_kafka_of_its_images(read: settings.Settings, tmp_path: Path) -> None:
    minio = compose()["services"]["minio"]["environment"]
    assert minio["MINIO_NOTIFY_KAFKA_ENABLE_TAGSTREAM"] == "on"
    assert minio["MINIO_NOTIFY_KAFKA_TOPIC_TAGSTREAM"] in read.input_topics
    assert minio["MINIO_NOTIFY_KAFKA_BROKERS_TAGSTREAM"] in read.kafka_servers
    (bucket,) = read.buckets
    assert run_script(compose()["services"]["bucket"], tmp_path, "mc") == [
        f"alias set store {read.s3_endpoint} the-access-key the-secret-key",
        f"mb --ignore-existing store/{bucket}",
        f"event add --ignore-existing store/{bucket} arn:minio:sqs::TAGSTREAM:kafka --event put,delete",
    ]


def test_minio_and_the_worker_have_the_same_credentials(worker: Manifest) -> None:
    minio = compose()["services"]["minio"]["environment"]
    ours = worker["environment"]
    assert minio["MINIO_ROOT_USER_FILE"] == ours["TAGSTREAM_S3_ACCESS_KEY_FILE"]
    assert minio["MINIO_ROOT_PASSWORD_FILE"] == ours["TAGSTREAM_S3_SECRET_KEY_FILE"]


def seconds(duration: str) -> float:
    """Compose writes 45s, 1m0s."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([hms])", duration))
