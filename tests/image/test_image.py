"""The image of a target as the pods of its overlay run it, on real servers."""

import re
from collections.abc import Callable, Mapping
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from index.tests.support import enriched
from schemas.enriched_image import EnrichedImage
from tagstream_testing.local.ports import free_ports
from tagstream_testing.local.postgresql import PostgreSQL
from tests.fixtures import Stack, Unique
from tests.image.container import Container, Image, Running, memory_by
from tests.support.waiting import eventually
from tests.support.worker_process import Site, photo
from tests.unit.deploy.tools import INDEX, PAGE, overlay
from workers import __version__
from workers.backends.kafka import KafkaEmitter

pytestmark = [pytest.mark.image, pytest.mark.timeout(600)]

MakeContainer = Callable[..., Container]
OVERLAYS = {"cpu": "cpu", "cuda": "gpu"}


@pytest.fixture
def site(stack: Stack, unique: Unique) -> Site:
    return Site(stack, unique("image"))


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    """Status and text; status 0 when nothing answers."""
    try:
        with urlopen(Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host}), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except (URLError, TimeoutError, ConnectionError) as error:
        return getattr(error, "code", 0), ""


def wait_until(path: str, running: Running, port: int) -> None:
    """Until the probe succeeds."""
    eventually(lambda: get(port, path)[0] == 200 or running.process.poll() is not None, 200, running.said)
    assert running.process.poll() is None, running.said()


def secrets(site: Site, **others: Mapping[str, str]) -> dict[str, Mapping[str, str]]:
    stack = site.stack
    own = {
        "s3-access-key": stack.s3.access_key,
        "s3-secret-key": stack.s3.secret_key,
        "redis-url": stack.valkey.url,
        "cache-key": "0123456789abcdef" * 4,
    }
    return {"tagstream": own, **others}


def servers(site: Site, port: int) -> dict[str, str]:
    """The test's servers and names, in place of the pod's."""
    of_secrets_and_pod = re.compile("KEY|REDIS|TRANSACTIONAL|BATCH")
    kept = {name: value for name, value in site.settings("w").items() if not of_secrets_and_pod.search(name)}
    return kept | {"TAGSTREAM_HTTP_HOST": "127.0.0.1", "TAGSTREAM_HTTP_PORT": str(port)}


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def worker(image: Image, site: Site, port: int, container: MakeContainer) -> Container:
    return container(overlay(OVERLAYS[image.target]), secrets=secrets(site), instead=servers(site, port))


def test_the_command_is_of_this_version_and_checks_the_servers(worker: Container, image: Image) -> None:
    assert worker.run("--version").stdout.split()[:2] == ["tagstream", __version__]
    checked = worker.run("check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    if memory_by() != "prlimit":
        limit_mib = {"cpu": 4096, "cuda": 12288}[image.target]
        assert f"{limit_mib} MiB that this container may have" in " ".join(checked.stdout.split())


def test_a_worker_gets_ready_tags_a_photo_and_leaves_on_sigterm(worker: Container, site: Site, port: int) -> None:
    site.upload("1.jpg", photo(1))
    site.send([(site.own("1.jpg"), ())])
    running = worker.start()
    wait_until("/readyz", running, port)
    assert running.execute(*worker.health_check).returncode == 0
    eventually(lambda: len(site.outcomes()) == 1, 60, running.said)
    assert running.terminate() == 0, running.said()
    (output,) = site.outputs()
    assert isinstance(output, EnrichedImage)
    assert output.status == "complete"
    assert worker.written("state")
    assert "Read-only file system" not in running.said()


def test_process_1_is_tini_without_rights_on_a_read_only_root(worker: Container, port: int) -> None:
    running = worker.start()
    wait_until("/livez", running, port)
    status = dict(re.findall(r"(?m)^(\w+):\t(.*)$", running.execute("cat", "/proc/1/status").stdout))
    assert (status["Name"], status["Uid"].split(), status["NoNewPrivs"]) == ("tini", ["10001"] * 4, "1")
    assert {int(value, 16) for name, value in status.items() if name.startswith("Cap")} == {0}
    for path, writable in (("/", False), ("/opt/tagstream", False), ("/tmp", True), ("/var/lib/tagstream", True)):
        assert (running.execute("touch", f"{path}/written").returncode == 0) is writable, path


def test_the_health_check_fails_where_no_worker_answers(worker: Container) -> None:
    assert worker.run_program(*worker.health_check).returncode == 1


def test_the_index_and_its_page_run(
    site: Site, postgresql: PostgreSQL, image: Image, container: MakeContainer, unique: Unique
) -> None:
    manifests, schema = overlay(OVERLAYS[image.target], "index", "search-page"), unique("image").replace("-", "_")
    dsn = {"dsn": postgresql.dsn}
    known = secrets(site, **{INDEX: dsn, PAGE: dsn})
    ports = dict(zip((INDEX, PAGE), free_ports(2), strict=True))
    common = {**servers(site, 0), "TAGSTREAM_INDEX_SCHEMA": schema, "TAGSTREAM_INDEX_GROUP": schema}
    here = {**common, "TAGSTREAM_INDEX_HTTP_PORT": str(ports[INDEX])}
    tables = container(manifests, secrets=known, instead=here, name=INDEX, step="tables")
    made = tables.run(*tables.arguments)
    assert made.returncode == 0, made.stderr
    indexer = container(manifests, secrets=known, instead=here, name=INDEX)
    running = indexer.start()
    wait_until("/readyz", running, ports[INDEX])
    with KafkaEmitter(site.stack.kafka.servers) as emitter:
        said = enriched("a dog.jpg")
        emitter.send(site.enriched, said.key, said.value, said.headers)
        emitter.flush()
    eventually(lambda: "a dog.jpg" in indexer.run("search", "dog").stdout, 60, running.said)
    page = container(manifests, secrets=known, instead={**common, "TAGSTREAM_KAFKA_SERVERS": ""}, name=PAGE)
    serving = page.start("--port", str(ports[PAGE]))
    wait_until("/readyz", serving, ports[PAGE])
    assert "a dog.jpg" in get(ports[PAGE], "/?q=dog", host="photos.example")[1]
    assert (running.terminate(), serving.terminate()) == (0, 0), running.said() + serving.said()


def test_parquet_is_an_extra_that_the_image_does_not_have(worker: Container) -> None:
    refused = worker.run("export", "parquet", "/tmp/outcomes")
    assert refused.returncode == 2
    assert "pip install 'pyarrow" in " ".join(refused.stderr.split())


def test_nothing_of_the_machine_that_built_it_is_in_the_image(image: Image) -> None:
    for name in ("etc/pip.conf", "etc/uv/uv.toml"):
        path = image.root / name
        assert not path.exists() or path.read_bytes() == b"", name
