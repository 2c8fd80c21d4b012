"""The servers from wheels behave as the real ones do, since they are the real ones, and leave nothing behind."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import confluent_kafka
import psycopg
import pytest
import redis
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from minio import Minio

from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.postgresql import PostgreSQL
from tagstream_testing.local.scratch import Scratch
from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.local.valkey import Valkey
from tests.fixtures import Stack
from tests.support.processes import listening, lives, survivors

HOLD_A_STACK = """
import json, time
from tagstream_testing.local.stack import LocalStack
with LocalStack() as stack:
    told = {
        "folder": str(stack.scratch.path),
        "pids": [server.pid for server in stack.servers],
        "ports": [port for server in stack.servers for port in server.ports],
        "litter": [str(path) for path in stack.s3.litter],
    }
    print(json.dumps(told), flush=True)
    time.sleep(120)
"""


def make_topic(kafka: ApacheKafka, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.servers})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)


def write(kafka: ApacheKafka, topic: str, value: bytes) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka.servers})
    producer.produce(topic, value)
    assert producer.flush(20) == 0


def read_all(kafka: ApacheKafka, topic: str) -> list[bytes]:
    consumer = confluent_kafka.Consumer({"bootstrap.servers": kafka.servers, "group.id": topic})
    try:
        partition = confluent_kafka.TopicPartition(topic, 0, 0)
        consumer.assign([partition])
        _, end = consumer.get_watermark_offsets(partition, timeout=20)
        messages = consumer.consume(end, timeout=20)
        return [message.value() or b"" for message in messages]
    finally:
        consumer.close()


def client(s3: SeaweedFS) -> Minio:
    address = s3.endpoint_url.removeprefix("http://")
    return Minio(address, access_key=s3.access_key, secret_key=s3.secret_key, secure=False)


@pytest.mark.servers
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_broker_comes_back_with_its_address_and_its_records(how: str, tmp_path: Path, topic_name: str) -> None:
    with ApacheKafka(tmp_path / "kafka", {"broker.session.timeout.ms": "2000"}) as kafka:
        make_topic(kafka, topic_name)
        write(kafka, topic_name, b"before")
        servers = kafka.servers
        kafka.stop() if how == "stop" else kafka.kill()
        kafka.start()
        assert kafka.servers == servers
        write(kafka, topic_name, b"after")
        assert read_all(kafka, topic_name) == [b"before", b"after"]


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restarted_object_store_keeps_its_objects(how: str, own_s3: SeaweedFS, bucket_name: str) -> None:
    minio = client(own_s3)
    minio.make_bucket(bucket_name)
    minio.put_object(bucket_name, "key", io.BytesIO(b"kept"), 4)
    own_s3.stop() if how == "stop" else own_s3.kill()
    own_s3.start()
    response = minio.get_object(bucket_name, "key")
    try:
        assert response.read() == b"kept"
    finally:
        response.close()
        response.release_conn()
        minio._http.clear()


def test_a_killed_valkey_comes_back_with_its_keys(own_valkey: Valkey, topic_name: str) -> None:
    with redis.Redis.from_url(own_valkey.url) as before:
        before.set(topic_name, b"kept")
    own_valkey.kill()
    own_valkey.start()
    with redis.Redis.from_url(own_valkey.url) as after:
        assert after.get(topic_name) == b"kept"


@pytest.mark.servers
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restarted_postgresql_keeps_committed_rows_although_a_client_is_connected(how: str, tmp_path: Path) -> None:
    with PostgreSQL(tmp_path / "postgresql") as server, psycopg.connect(server.dsn) as client:
        client.execute("create table kept as select 'größer' as word")
        client.commit()
        server.stop() if how == "stop" else server.kill()
        with pytest.raises(psycopg.OperationalError):
            client.execute("select 1")
        server.start()
        with psycopg.connect(server.dsn) as after:
            assert after.execute("select word from kept").fetchone() == ("größer",)
    assert not server.running


def test_no_server_listens_beyond_its_own_loopback_ports(stack: Stack, postgresql: PostgreSQL) -> None:
    for server in (stack.kafka, stack.s3, stack.valkey, postgresql):
        assert server.pid is not None
        addresses = listening(server.pid)
        assert {host for host, _ in addresses} == {"127.0.0.1"}, server
        assert {port for _, port in addresses} <= set(server.ports), server


@pytest.mark.servers
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_two_stacks_run_at_once_and_the_second_ends_with_its_owner(stack: Stack, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_A_STACK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as owner:
        assert owner.stdout is not None
        told = json.loads(owner.stdout.readline())
        folder, pids = Path(told["folder"]), told["pids"]
        assert all(lives(pid) for pid in pids)
        assert not {*stack.kafka.ports, *stack.s3.ports, *stack.valkey.ports} & set(told["ports"])
        owner.send_signal(how)
        owner.wait(20)
    assert survivors(pids) == []
    if how is signal.SIGKILL:
        assert folder.exists(), "no process was left to remove it"
        with Scratch():
            """The process that makes the next one sweeps first."""
    assert not folder.exists()
    assert told["litter"]
    assert not any(Path(socket).exists() for socket in told["litter"])
    assert all(server.running for server in (stack.kafka, stack.s3, stack.valkey))


@pytest.mark.servers
def test_the_object_store_leaves_no_sockets_behind_and_its_folder_may_lie_deep(tmp_path: Path) -> None:
    """Deeper than the path of a Unix socket may be long."""
    deep = tmp_path / ("deep" * 25)
    deep.mkdir()
    with SeaweedFS(deep / "s3") as own:
        assert all(path.is_socket() for path in own.litter)
    assert not any(path.exists() for path in own.litter)
