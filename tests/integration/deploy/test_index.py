"""The component `index`: the commands of its containers, run here on real servers."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from index.tests.support import settings_of
from tagstream_index.database import connected
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.postgresql import PostgreSQL
from tests.fixtures import Unique
from tests.integration.deploy.test_processes import READ_ONLY_ROOT
from tests.unit.deploy.tools import INDEX, mounted_environment, overlay, pod_of
from workers.backends.kafka import ensure_topics


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.usefixtures("may_mount")
def test_its_containers_make_the_tables_and_the_index_and_write_only_to_tmp(
    kafka: ApacheKafka, postgresql: PostgreSQL, unique: Unique, tmp_path: Path
) -> None:
    manifests, topic, tmp = overlay("cpu", "index"), unique("pod-index"), tmp_path / "tmp"
    tmp.mkdir()
    ensure_topics(kafka.servers, {topic: (1, {})})
    secrets = {"tagstream-index": {"dsn": postgresql.dsn}, "tagstream": {}}
    environment = mounted_environment(manifests, secrets, tmp_path / "secrets", INDEX) | {
        "TAGSTREAM_KAFKA_SERVERS": kafka.servers,
        "TAGSTREAM_OUTPUT_TOPIC": topic,
        "TAGSTREAM_INDEX_GROUP": topic,
        "TAGSTREAM_INDEX_SCHEMA": topic.replace("-", "_"),
        "TAGSTREAM_INDEX_HTTP_PORT": "off",
        **dict.fromkeys(("TMPDIR", "TMP_HERE", "STATE_HERE"), str(tmp)),
    }
    pod = pod_of(manifests, INDEX)
    steps = [*pod["initContainers"], *pod["containers"]]
    assert [(step["env"], step["envFrom"]) for step in steps[:-1]] == [(steps[-1]["env"], steps[-1]["envFrom"])]
    for step, more in zip(steps, ([], ["--until-idle", "1"]), strict=True):
        command = [*READ_ONLY_ROOT, sys.executable, "-m", "workers", *step["args"], *more]
        ran = subprocess.run(
            command, env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True, timeout=100
        )
        assert ran.returncode == 0, ran.stderr
    with closing(connected(settings_of(postgresql, topic.replace("-", "_")), made=False)) as tables:
        assert tables.execute("select count(*) from progress").fetchone() == (1,)
