"""`tagstream stack up --detach`, `env` and `down`, run as a person would run them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.processes import children, survivors, with_environment

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]


class Shell:
    def __init__(self, folder: Path) -> None:
        self.state, self.temporary = folder / "state", folder / "tmp"
        self.temporary.mkdir()
        own = {"TAGSTREAM_STATE_DIR": str(self.state), "TMPDIR": str(self.temporary)}
        ours = {name: value for name, value in os.environ.items() if not name.startswith("TAGSTREAM_")}
        self._environment = ours | own

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "workers", *words]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=240)

    def exported(self, *words: str) -> dict[str, str]:
        """The variables of a shell after `eval "$(tagstream …)"`."""
        ran = self.run(*words)
        assert ran.returncode == 0, ran.stderr
        script = f"{ran.stdout}\nenv -0"
        told = subprocess.run(["sh", "-c", script], env={"PATH": os.environ["PATH"]}, capture_output=True, check=True)
        lines = (line for line in told.stdout.decode().split("\0") if line.startswith("TAGSTREAM_"))
        return dict(line.split("=", 1) for line in lines)

    @property
    def holder(self) -> int:
        return int(json.loads((self.state / "stack.json").read_text())["pid"])

    def processes(self) -> list[int]:
        return with_environment("TMPDIR", str(self.temporary))


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    yield made
    for pid in made.processes():
        os.kill(pid, signal.SIGKILL)


def test_a_detached_stack_is_found_until_it_is_ended(shell: Shell, tmp_path: Path) -> None:
    up = shell.exported("stack", "up", "--detach")
    with redis.Redis.from_url(up["TAGSTREAM_REDIS_URL"]) as client:
        assert client.ping()
    assert shell.exported("stack", "up", "--detach") == up, "a second one is the first"
    assert json.loads(shell.run("stack", "env", "--json").stdout) == up
    settings = tmp_path / "stack.env"
    settings.write_text(shell.run("stack", "env").stdout)
    read = shell.run("--env-file", str(settings), "tail", "--no-follow")
    assert read.returncode == 0, read.stderr
    advised = shell.run("--env-file", str(settings), "topics", "check")
    assert advised.returncode == 0, advised.stdout

    holder = shell.holder
    servers = children(holder)
    os.kill(servers[0], signal.SIGKILL)
    assert survivors([holder, *servers], within_s=60) == [], "it has no use without one of its servers"
    told = shell.run("stack", "env")
    assert (told.returncode, told.stdout) == (4, "")
    assert "the detached stack ended by itself" in told.stderr
    assert "ended with exit code -9" in told.stderr

    assert shell.exported("stack", "up", "--detach").keys() == up.keys()
    down = shell.run("stack", "down")
    assert (down.returncode, down.stdout, down.stderr) == (0, "", "The servers have ended.\n")
    assert survivors(shell.processes(), within_s=60) == []
    assert list(shell.temporary.iterdir()) == []
    again = shell.run("stack", "down")
    assert (again.returncode, again.stderr) == (0, "No detached stack was up.\n")
