"""A forked process is as a started one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.forked import Forked, Forker, run_command
from tests.support.processes import survivors
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    with closing(Forker()) as made:
        yield made


def fork(forker: Forker, folder: Path, *arguments: str, **settings: str) -> Forked:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAGSTREAM_")}
    made = forker.fork(arguments, log=folder / "log", env=environment | settings, cwd=folder)
    assert made is not None
    return made


def test_it_has_its_own_settings_log_and_exit_code(forker: Forker, tmp_path: Path) -> None:
    assert fork(forker, tmp_path, "settings").wait(60) == 0
    (tmp_path / "log").unlink()
    assert fork(forker, tmp_path, "topics", "check", TAGSTREAM_GROPU="mine").wait(60) == 2
    assert "TAGSTREAM_GROPU" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("how", ["signal", "end of the tests"])
def test_it_leads_a_session_and_ends_by_a_signal_and_with_the_tests(how: str, forker: Forker, tmp_path: Path) -> None:
    nowhere = {"TAGSTREAM_KAFKA_SERVERS": "127.0.0.1:1", "TAGSTREAM_S3_ENDPOINT": "http://127.0.0.1:1"}
    made = fork(forker, tmp_path, "run", **nowhere, TAGSTREAM_BUCKETS="photos", TAGSTREAM_HTTP_PORT="off")
    eventually(lambda: "loading the models" in (tmp_path / "log").read_text(), 60)
    assert made.poll() is None
    assert os.getsid(made.pid) == made.pid
    assert Path(f"/proc/{made.pid}/cwd").resolve() == tmp_path.resolve()
    if how == "signal":
        made.send_signal(signal.SIGKILL)
        assert made.wait(60) == -signal.SIGKILL
    else:
        made.let_go()
    assert survivors([made.pid], within_s=20) == []


def test_a_command_tells_its_exit_code_its_output_and_its_errors_apart() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAGSTREAM_")}
    wrong = run_command("topics", "check", env={**environment, "TAGSTREAM_GROPU": "mine"})
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "TAGSTREAM_GROPU" in wrong.stderr
    right = run_command("--version", env=environment)
    assert (right.returncode, right.stdout.split()[0], right.stderr) == (0, "tagstream", "")


def test_another_environment_of_libraries_needs_a_start(forker: Forker, tmp_path: Path) -> None:
    fork(forker, tmp_path, "--version").wait(60)
    assert forker.fork(["--version"], log=tmp_path / "log", env={"LANG": "C"}, cwd=tmp_path) is None


_FORKS_ONE = """
import os
from pathlib import Path
from tests.support.forked import _forker
_forker.fork(["--version"], log=Path(os.devnull), env=os.environ, cwd=Path()).wait(60)
"""


def test_the_process_that_forks_is_gone_before_the_interpreter_complains_of_it() -> None:
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", _FORKS_ONE]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "still running" not in done.stderr
