"""The containers' commands, run here: their arguments, environment, probes, and read-only root file system."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from schemas.enriched_image import EnrichedImage
from tagstream_testing.local.ports import free_ports
from tagstream_testing.local.server import spawn_tied
from tests.support.waiting import eventually
from tests.support.worker_process import Site
from tests.unit.deploy.dockerfile import Dockerfile
from tests.unit.deploy.tools import ROOT, compose, overlay, pod_environment, the, worker_of

pytestmark = pytest.mark.slow

STATE, SECRETS = "/var/lib/tagstream", "/etc/tagstream/secrets"

_SEAL = """
for folder in "$STATE_HERE" "$TMP_HERE"; do mount --bind "$folder" "$folder"; done
mount -o remount,bind,ro /
exec "$@"
"""
READ_ONLY_ROOT = ["unshare", "--mount", "--propagation=private", "sh", "-euc", _SEAL, "sh"]
"""Runs a command with mounts of its own: only the two folders can be written."""


class Pod:
    """One pod's worker as a process, and the kubelet's part of asking and stopping it."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.manifests = overlay("cpu")
        self.container = worker_of(self.manifests)
        self.log = folder / "log"
        self._site = site
        self._folder = folder
        self._port = free_ports(1)[0]
        for name in ("state", "tmp", "secrets"):
            (folder / name).mkdir()
        command = [sys.executable, "-m", "workers", *self.container["args"]]
        self.process = spawn_tied([*READ_ONLY_ROOT, *command], log=self.log, env=self._environment(), cwd=ROOT)

    def _environment(self) -> dict[str, str]:
        """The image's and the pod's, with the folders, addresses and names of this test in them."""
        secrets = {
            "s3-access-key": self._site.stack.s3.access_key,
            "s3-secret-key": self._site.stack.s3.secret_key,
            "redis-url": self._site.stack.valkey.url,
            "cache-key": "0123456789abcdef" * 4,
        }
        for key, value in secrets.items():
            (self._folder / "secrets" / key).write_text(f"{value}\n")
        image = Dockerfile(ROOT / "Dockerfile").environment("cpu")
        environment = image | pod_environment(self.manifests, secrets) | {"PATH": os.environ["PATH"]}
        here = {name: self._here(value) for name, value in environment.items()}
        return here | self._instead() | {"STATE_HERE": self._here(STATE), "TMP_HERE": f"{self._folder}/tmp"}

    def _here(self, text: str) -> str:
        return text.replace(STATE, f"{self._folder}/state").replace(SECRETS, f"{self._folder}/secrets")

    def _instead(self) -> dict[str, str]:
        return {
            "TAGSTREAM_KAFKA_SERVERS": self._site.stack.kafka.servers,
            "TAGSTREAM_GROUP": self._site.name,
            "TAGSTREAM_INPUT_TOPICS": self._site.images,
            "TAGSTREAM_OUTPUT_TOPIC": self._site.enriched,
            "TAGSTREAM_DEAD_LETTER_TOPIC": self._site.dead,
            "TAGSTREAM_SKIPPED_TOPIC": self._site.skipped,
            "TAGSTREAM_S3_ENDPOINT": self._site.stack.s3.endpoint_url,
            "TAGSTREAM_BUCKETS": self._site.name,
            "TAGSTREAM_HTTP_HOST": "127.0.0.1",
            "TAGSTREAM_HTTP_PORT": str(self._port),
            "TMPDIR": f"{self._folder}/tmp",
        }

    def probe(self, which: str) -> int:
        """The status of a probe's answer, 0 for no answer."""
        ask = self.container[f"{which}Probe"]
        try:
            with urlopen(
                f"http://127.0.0.1:{self._port}{ask['httpGet']['path']}", timeout=ask["timeoutSeconds"]
            ) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except (URLError, TimeoutError):
            return 0

    def wait_ready(self) -> None:
        eventually(lambda: self.probe("readiness") == 200 or self.process.poll() is not None, 90, self.said)
        assert self.process.poll() is None, self.said()

    def stop(self) -> int:
        """As the kubelet does: SIGTERM, and the exit code within the grace period."""
        self.process.terminate()
        grace_s = the(self.manifests, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        return self.process.wait(grace_s)

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@contextmanager
def running(site: Site, folder: Path) -> Iterator[Pod]:
    pod = Pod(site, folder)
    try:
        yield pod
    finally:
        pod.process.kill()
        pod.process.wait(10)


@pytest.mark.usefixtures("may_mount")
def test_a_pods_worker_does_its_work_and_leaves_in_time(site: Site, tmp_path: Path) -> None:
    site.send_photos(range(3))
    with running(site, tmp_path) as pod:
        pod.wait_ready()
        assert pod.probe("startup") == pod.probe("liveness") == 200
        eventually(lambda: len(site.outcomes()) == 3, 60, pod.said)
        assert pod.stop() == 0, pod.said()
    assert all(isinstance(output, EnrichedImage) for output in site.outputs())
    assert site.outcomes() == site.inputs()
    assert list((tmp_path / "state").iterdir())
    assert "Read-only file system" not in pod.said()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(lambda: compose("cpu")["services"]["worker"]["command"], id="compose cpu"),
        pytest.param(lambda: compose("gpu")["services"]["worker-gpu"]["command"], id="compose gpu"),
        pytest.param(lambda: worker_of(overlay("cpu"))["args"], id="pod"),
        pytest.param(lambda: Dockerfile(ROOT / "Dockerfile").last("cpu", "CMD").words, id="image"),
    ],
)
def test_a_containers_command_exists(arguments: Callable[[], list[str]]) -> None:
    asked = subprocess.run([sys.executable, "-m", "workers", *arguments(), "--help"], cwd=ROOT, capture_output=True)
    assert asked.returncode == 0
