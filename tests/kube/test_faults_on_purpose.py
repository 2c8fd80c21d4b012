"""Six things broken on purpose: which alert fires after how long, and which step of its runbook names the cause.

The rules are the project's own, with times divided by BY. `build/kube-faults.md` has what was seen.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from minio import Minio

from index.tests.support import enriched
from index.tests.world import World
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.postgresql import PostgreSQL
from tagstream_testing.local.scratch import Scratch
from tests.chaos.cluster import Cluster
from tests.chaos.unruly import Unruly, image_of
from tests.chaos.unruly_model import DEADLY
from tests.dashboards.watching import RULES
from tests.fixtures import Stack, Unique, up_or_skip
from tests.kube.desk import Desk, steps
from tests.kube.node import Pod
from tests.kube.prometheus import PodsPrometheus
from tests.kube.rollout import ONE_PROCESSOR, Patch, Rollout, done, in_the_end
from tests.support.forked import MayFork
from tests.support.lying_store import LyingStore, takes
from tests.support.prometheus import Json, Prometheus, shortened
from tests.support.waiting import eventually, meanwhile
from tests.support.worker_process import Site, WorkerProcess, photo

pytestmark = [pytest.mark.kube, pytest.mark.timeout(1800)]

BY = 20
STEPS = 3
PAGE = Path("build/kube-faults.md")
ALONE = Patch("Deployment", {"replicas": 1})


@dataclass
class Found:
    """The rows of the report."""

    rows: list[str] = field(default_factory=list)

    def fires(self, prometheus: Prometheus, alert: str) -> float:
        """Seconds until it does."""
        began = time.monotonic()
        in_the_end(lambda: prometheus.states().get(alert) == "firing", lambda: str(prometheus.states()))
        return time.monotonic() - began

    def named(self, what: str, alert: str, after_s: float, desk: Desk, cause: str) -> None:
        """Take the first steps of the alert's runbook until one names the cause."""
        shown = []
        for number, (kind, step) in enumerate(steps(alert)[:STEPS], 1):
            shown.append(f"{kind}: {step}\n{desk.take(kind, step)}")
            if re.search(cause, shown[-1].partition("\n")[2], re.IGNORECASE):
                real_s = after_s + waits_s(alert) * (1 - 1 / BY)
                # A comment tells the reader nothing here, and a pipe would end the cell.
                step = step.partition("  #")[0].rstrip().replace("|", "\\|")
                self.rows.append(f"| {what} | {alert} | {after_s:.0f} s | {real_s / 60:.0f} min | {number}: `{step}` |")
                break
        else:
            pytest.fail(f"none names {cause!r}:\n" + "\n\n".join(shown))

    def write(self) -> None:
        head = f"| broken | alert | fires after, times ÷ {BY} | with its own `for` | step that names the cause |"
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text("\n".join([head, "|---|---|---|---|---|", *self.rows]) + "\n", encoding="utf-8")


def its_own() -> Json:
    """The project's rules."""
    document: Json = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return document


def alert_of(document: Json, name: str) -> Json:
    """The first rule of this alert."""
    rules: Iterator[Json] = (rule for group in document["groups"] for rule in group["rules"])
    return next(rule for rule in rules if rule.get("alert") == name)


def waits_s(alert: str) -> int:
    minutes = re.fullmatch(r"(\d+)m", alert_of(its_own(), alert).get("for", "0m"))
    assert minutes is not None, alert
    return 60 * int(minutes[1])


@pytest.fixture(scope="module")
def rules(scratch: Scratch) -> Path:
    path = shortened(RULES, BY, scratch.path / "shortened-faults.yaml")
    document = yaml.safe_load(path.read_text())
    # An hour's restarts, as it is: its window delays nothing, and a busy machine needs minutes for three of them.
    alert_of(document, "TagstreamWorkerRestarts")["expr"] = alert_of(its_own(), "TagstreamWorkerRestarts")["expr"]
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def watched(scratch: Scratch, rules: Path) -> Iterator[PodsPrometheus]:
    yield from up_or_skip(PodsPrometheus(scratch.path / "watching-faults", rules))


@pytest.fixture(scope="module")
def found() -> Iterator[Found]:
    found = Found()
    yield found
    found.write()


def running(rollout: Rollout) -> list[Pod]:
    return [pod for pod in rollout.pods() if pod.pid is not None]


@contextmanager
def one_pod(rollout: Rollout, watched: PodsPrometheus, **settings: str) -> Iterator[Callable[[], Pod]]:
    """A worker that Prometheus watches, begun."""
    with watched.scraping(lambda: running(rollout)):
        rollout.apply(components=["fixed-size"], patches=[ALONE, ONE_PROCESSOR], **settings)
        in_the_end(lambda: running(rollout), rollout.said)
        yield lambda: rollout.pods()[0]


def send(site: Site, bodies: Sequence[bytes], name: str = "") -> None:
    keys = [f"{name}{number}.jpg" for number in range(len(bodies))]
    for key, body in zip(keys, bodies, strict=True):
        site.upload(key, body)
    site.send([(site.own(key), ()) for key in keys])


def test_a_wrong_secret(rollout: Rollout, watched: PodsPrometheus, found: Found, tmp_path: Path) -> None:
    rollout.secrets["s3-secret-key"] = "another"
    with one_pod(rollout, watched) as pod:
        after_s = found.fires(watched, "TagstreamNoWorkerReady")
        desk = Desk.of_pod(tmp_path / "desk", rollout.plane, watched, pod())
        found.named("wrong secret", "TagstreamNoWorkerReady", after_s, desk, "secret key does not fit the access key")


@contextmanager
def watching(folder: Path, rules: Path, process: MayFork) -> Iterator[Prometheus]:
    """A Prometheus that reads a process, which is gone after the block."""
    try:
        with contextmanager(up_or_skip)(Prometheus(folder, rules, every_s=2)) as watched:
            watched.scrape(watched=[urlsplit(process.url).netloc])
            in_the_end(lambda: watched.now("up == 1"), process.log_tail)
            yield watched
    finally:
        process.kill()


def desk_of(folder: Path, watched: Prometheus, process: MayFork, **more: str) -> Desk:
    environment = {**process.environment(), **more}
    return Desk(folder, watched, lambda: (process.log.read_bytes(), 0), environment)


@dataclass
class Shared:
    """A worker and its store, for two faults."""

    site: Site
    store: LyingStore
    process: WorkerProcess
    watched: Prometheus


@pytest.fixture(scope="module")
def shared(stack: Stack, rules: Path, scratch: Scratch) -> Iterator[Shared]:
    site = Site(stack, "faults")
    port = int(stack.s3.endpoint_url.rpartition(":")[2])
    folder = scratch.path / "faults"
    folder.mkdir()
    with LyingStore(lambda: port) as store:
        process = WorkerProcess(site, "w", folder, TAGSTREAM_S3_ENDPOINT=store.url, TAGSTREAM_FETCH_THREADS="1")
        with watching(scratch.path / "watching-shared", rules, process) as watched:
            in_the_end(lambda: watched.now("tagstream_ready == 1"), process.said)
            yield Shared(site, store, process, watched)


def test_a_slow_store(shared: Shared, found: Found, tmp_path: Path) -> None:
    """With a backlog, so that images wait for more than 30 s."""
    shared.store.lies["*"] = takes(2.0)
    send(shared.site, [photo(1_000 + number) for number in range(60)])
    after_s = found.fires(shared.watched, "TagstreamImagesLate")
    desk = desk_of(tmp_path / "desk", shared.watched, shared.process)
    found.named("slow store", "TagstreamImagesLate", after_s, desk, "bounded by the store")
    shared.store.lies.clear()
    in_the_end(lambda: done(shared.site), shared.process.said)


def test_a_bucket_that_is_gone(shared: Shared, found: Found, tmp_path: Path) -> None:
    site, s3 = shared.site, shared.site.stack.s3
    client = Minio(s3.endpoint_url.partition("//")[2], s3.access_key, s3.secret_key, secure=False)
    for listed in list(site.store.list(site.name)):
        site.store.remove(site.name, listed.key)
    client.remove_bucket(site.name)
    site.send([(site.own(f"{number}.jpg"), ()) for number in range(8)])
    after_s = found.fires(shared.watched, "TagstreamStoreUnreachable")
    desk = desk_of(tmp_path / "desk", shared.watched, shared.process)
    found.named(
        "bucket gone", "TagstreamStoreUnreachable", after_s, desk, f"bucket.*{site.name}.*not exist|NoSuchBucket"
    )


def test_an_image_that_ends_its_worker(
    stack: Stack, rules: Path, found: Found, scratch: Scratch, unique: Unique, tmp_path: Path
) -> None:
    site = Site(stack, unique("poison"))
    process = WorkerProcess(site, "w", tmp_path, **Unruly(tmp_path / "unruly").settings())

    def restart() -> None:
        """As a kubelet does."""
        if not process.running:
            process.launch()

    with watching(scratch.path / "watching-poison", rules, process) as watched:
        in_the_end(lambda: watched.now("tagstream_ready == 1"), process.said)
        send(site, [image_of(DEADLY)])
        with meanwhile(restart, 0.3):
            after_s = found.fires(watched, "TagstreamWorkerRestarts")
            in_the_end(lambda: done(site), process.said)
        desk = desk_of(tmp_path / "desk", watched, process)
        found.named("poison image", "TagstreamWorkerRestarts", after_s, desk, "kills-worker")


@pytest.fixture(scope="module")
def cluster(scratch: Scratch) -> Iterator[Cluster]:
    yield from up_or_skip(Cluster(scratch.path / "faults-cluster"))


def test_a_partition_without_leader(
    cluster: Cluster, stack: Stack, rules: Path, found: Found, scratch: Scratch, unique: Unique, tmp_path: Path
) -> None:
    """The broker that alone has it is gone when a new group begins."""
    name = unique("leader")
    admin = AdminClient({"bootstrap.servers": cluster.servers})
    images = NewTopic(f"{name}.images", num_partitions=4, replica_assignment=[[3], [1], [2], [1]])
    admin.create_topics([images])[images.topic].result(60)
    site = Site(Stack(cluster.nodes[0], stack.s3, stack.valkey), name)
    cluster.nodes[2].kill()
    process = WorkerProcess(site, "w", tmp_path)
    with watching(scratch.path / "watching-leader", rules, process) as watched:
        after_s = found.fires(watched, "TagstreamPartitionNotOpened")
        desk = desk_of(tmp_path / "desk", watched, process)
        cause = f"{name}.images:0 yet, as its leader"
        found.named("partition without leader", "TagstreamPartitionNotOpened", after_s, desk, cause)


class SmallDisk(PostgreSQL):
    """A PostgreSQL with a tablespace, `small`, on a disk of 24 MB."""

    def prepare(self) -> None:
        super().prepare()
        self.small.mkdir(exist_ok=True)

    @property
    def small(self) -> Path:
        return self.folder / "small"

    def command(self) -> list[str]:
        mounted = 'mount -t tmpfs -o size=24m tmpfs "$0" && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", mounted, str(self.small), *super().command()]


def fill(database: psycopg.Connection) -> None:
    """Until no page is left."""
    database.execute("create table ballast (filling text)")
    row = "(select string_agg(md5(random()::text), '') from generate_series(1, 60))"
    for rows in (1_000, 100, 10, 1):
        insert = f"insert into ballast select {row} from generate_series(1, {rows})".encode()
        with suppress(psycopg.errors.DiskFull):
            while True:
                database.execute(insert)


@pytest.mark.usefixtures("may_mount")
def test_a_database_without_space(
    kafka: ApacheKafka, rules: Path, found: Found, scratch: Scratch, unique: Unique, tmp_path: Path
) -> None:
    with SmallDisk(tmp_path / "own") as server, closing(psycopg.connect(server.dsn, autocommit=True)) as database:
        database.execute(f"create tablespace small location '{server.small}'")
        database.execute("alter role postgres set default_tablespace = small")
        with closing(World(kafka, server, unique("full"), tmp_path)) as world:
            indexer = world.indexer()
            indexer.launch()
            with watching(scratch.path / "watching-full", rules, indexer) as watched:
                database.execute("set default_tablespace = small")
                fill(database)
                world.publish([enriched(f"image-{number}", 1) for number in range(500)])
                after_s = found.fires(watched, "TagstreamIndexNotWritten")
                desk = desk_of(tmp_path / "desk", watched, indexer, TAGSTREAM_INDEX_HTTP_PORT="off")
                cause = "No space left on device"
                found.named("database full", "TagstreamIndexNotWritten", after_s, desk, cause)
                database.execute("drop table ballast")
                eventually(lambda: world.ask("select count(*) from image") == 500, 300, indexer.log_tail)
