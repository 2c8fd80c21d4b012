"""The processes of a test run share one set of servers, which no test can break and which end with the run."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tagstream_testing.local.server import CannotStart
from tagstream_testing.local.valkey import Valkey
from tests.support.processes import lives, survivors
from tests.support.shared_servers import AskedServers, OwnedServers
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

TEST = """
import json, time
from pathlib import Path

def test_of_a_file(valkey):
    Path("{told}.part").write_text(json.dumps([valkey.url, valkey.pid]))
    Path("{told}.part").rename("{told}")
    while not Path("{go}").exists() and valkey.running:
        time.sleep(0.05)
    assert valkey.is_ready()
"""


@contextmanager
def run_of_two_processes(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[str], int]]:
    """A run of two files at once, the addresses of the server that each was given, and its process."""
    told = [folder / "a", folder / "b"]
    for file in told:
        (folder / f"test_{file.name}.py").write_text(TEST.format(told=file, go=folder / "go"))
    command = [sys.executable, "-m", "pytest", "-p", "tests.fixtures", "-c", "/dev/null", "-n", "2", "-q"]
    with subprocess.Popen([*command, "--rootdir", folder, folder], stdout=subprocess.DEVNULL) as run:
        try:
            eventually(lambda: all(file.exists() for file in told) or run.poll() is not None, 60)
            (one, pid), (other, _) = (json.loads(file.read_text()) for file in told)
            yield run, [one, other], pid
        finally:
            run.kill()


def test_two_processes_of_a_run_are_given_one_server_that_ends_with_the_run(tmp_path: Path) -> None:
    with run_of_two_processes(tmp_path) as (run, addresses, server):
        assert addresses[0] == addresses[1]
        assert lives(server)
        (tmp_path / "go").touch()
        assert run.wait(60) == 0
        assert survivors([server]) == []


def test_a_run_that_is_killed_leaves_no_server(tmp_path: Path) -> None:
    with run_of_two_processes(tmp_path) as (run, _, server):
        run.send_signal(signal.SIGKILL)
        assert survivors([server]) == []


def test_a_server_of_the_run_refuses_to_be_broken(valkey: Valkey) -> None:
    for strike in (valkey.kill, valkey.stop, valkey.freeze, valkey.restart):
        with pytest.raises(AssertionError, match="own_"):
            strike()
    assert valkey.is_ready()


class Broken(Valkey):
    def command(self) -> list[str]:
        return ["false"]


def test_each_process_learns_why_a_server_did_not_start() -> None:
    owned = OwnedServers()
    try:
        asked = AskedServers(owned.listen())
        for _ in range(2):
            with pytest.raises(CannotStart, match="ended with exit code 1"):
                asked.up(Broken)
    finally:
        owned.close()
