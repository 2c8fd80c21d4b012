"""`tagstream run` as a process: errors that stop it before the work begins, and their exit codes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.command import Tagstream
from tests.support.kept import kept_compact
from workers.cli import one_worker
from workers.models.bundle import Bundle, Golden
from workers.settings import Settings

pytestmark = pytest.mark.slow

SETTINGS = {
    "TAGSTREAM_KAFKA_SERVERS": "127.0.0.1:1",
    "TAGSTREAM_S3_ENDPOINT": "http://127.0.0.1:1",
    "TAGSTREAM_BUCKETS": "photos",
    "TAGSTREAM_HTTP_HOST": "127.0.0.1",
    "TAGSTREAM_HTTP_PORT": "0",
    "TAGSTREAM_DEVICE": "cpu",
    "TAGSTREAM_PRECISION": "fp32",
    "TAGSTREAM_MAX_BATCH": "1",
    "TAGSTREAM_LOG_FORMAT": "text",
    "OMP_NUM_THREADS": "1",
}


@contextmanager
def process(tmp_path: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, **SETTINGS, "TAGSTREAM_STATE_DIR": str(tmp_path / "state"), **settings}
    command = [sys.executable, "-m", "workers", "run"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def wait_for(running: subprocess.Popen[str], text: str) -> str:
    """The log up to the first line that has the text."""
    assert running.stderr is not None
    seen = ""
    for line in running.stderr:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} never came: {seen}")


def ends_with(tmp_path: Path, **settings: str) -> tuple[int, str]:
    with process(tmp_path, **settings) as running:
        _, said = running.communicate(timeout=100)
        return running.returncode, said


@pytest.mark.parametrize(
    ("setting", "file", "says"),
    [
        ("TAGGER", "nothing", "is not a bundle"),
        ("STATE_DIR", "file", "Name a folder that this user may write"),
        ("HTTP_PORT", None, "Set TAGSTREAM_HTTP_PORT to another port"),
    ],
)
def test_no_bundle_a_state_folder_that_cannot_be_written_and_a_taken_port_end_it_with_2(
    tmp_path: Path, setting: str, file: str | None, says: str
) -> None:
    (tmp_path / "file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        value = str(taken.getsockname()[1]) if file is None else str(tmp_path / file)
        code, said = ends_with(tmp_path, **{f"TAGSTREAM_{setting}": value})
    assert (code, says in said, "Traceback" in said) == (2, True, False), said


def test_in_a_json_log_an_error_of_the_settings_is_a_line_of_json(tmp_path: Path) -> None:
    code, said = ends_with(tmp_path, TAGSTREAM_LOG_FORMAT="json", TAGSTREAM_BUCKETS="", TAGSTREAM_S3_ACCESS_KEY="a")
    (line,) = map(json.loads, said.splitlines())
    assert (code, line["level"]) == (2, "error")
    assert [each.partition(" ")[0] for each in line["message"].splitlines()] == [
        "TAGSTREAM_BUCKETS",
        "TAGSTREAM_S3_ACCESS_KEY",
    ]


@pytest.mark.timeout(120)
def test_a_model_that_answers_wrongly_ends_it_with_3_also_while_no_broker_answers(tmp_path: Path) -> None:
    good = kept_compact(tmp_path)
    assert good.golden is not None
    wrong = Golden(good.golden.pixels, good.golden.outputs + 1)
    folder = tmp_path / "wrong"
    Bundle.write(folder, good.manifest, weights=good.weights(), labels=good.labels, golden=lambda _: wrong)
    code, said = ends_with(tmp_path, TAGSTREAM_TAGGER=str(folder))
    assert code == 3
    assert "does not give its golden answers" in said
    assert "Traceback" not in said


def test_a_wrong_number_of_workers_is_told_whether_option_or_setting(
    monkeypatch: pytest.MonkeyPatch, tagstream: Tagstream
) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    said = tagstream("run", "--workers", "none", WORKERS=2).fails()
    assert said.startswith("TAGSTREAM_WORKERS=none: it must be a whole number from 1 to 999, or auto.")


@pytest.mark.timeout(120)
def test_without_a_broker_it_waits_alive_but_unready_and_a_signal_ends_it_with_0(tmp_path: Path) -> None:
    with process(tmp_path) as running:
        said = wait_for(running, "delivery exactly_once")
        assert re.search(r"tagstream \S+: tagger compact .*; delivery exactly_once", said)
        said += wait_for(running, "waiting: kafka: none of 127.0.0.1:1 answered")  # said again and again
        port = re.findall(r"on 127\.0\.0\.1:(\d+)", said)[0]
        assert status(port, "/livez") == 200
        assert status(port, "/startupz") == 200  # a restart would not bring the broker back
        assert status(port, "/readyz") == 503
        running.send_signal(signal.SIGTERM)
        _, rest = running.communicate(timeout=100)
        assert running.returncode == 0, said + rest


def test_a_signal_while_the_models_load_ends_it_with_0(tmp_path: Path) -> None:
    with process(tmp_path) as running:
        said = wait_for(running, "serving /livez")
        port = re.findall(r"on 127\.0\.0\.1:(\d+)", said)[0]
        assert (status(port, "/livez"), status(port, "/startupz")) == (200, 503)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=100)
        assert running.returncode == 0, said


def status(port: str, path: str) -> int:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        error.close()
        return error.code


def test_loaded_modules_and_models_are_kept_from_the_garbage_collector() -> None:
    """Guard: garbage cycles would be collected only when they make up a quarter of all objects."""
    code = """
import collections
from workers.cli.one_worker import set_apart_what_is_loaded
loaded = [[] for _ in range(1_000_000)]
set_apart_what_is_loaded()
alive, most = 0, 0
class Cycle:
    def __init__(self):
        global alive
        alive += 1
        self.me = self
    def __del__(self):
        global alive
        alive -= 1
in_use = collections.deque(maxlen=20_000)  # so long that only a full collection finds what is left
for _ in range(500_000):
    in_use.append(Cycle())
    most = max(most, alive)
print(most)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 20_000 <= int(done.stdout) < 150_000  # without: 281,100


def test_a_command_that_ends_early_leaves_the_garbage_collector_unchanged() -> None:
    """Otherwise later objects of this process would never be collected."""
    code = """
import gc, os
from workers.cli.app import run_command
assert run_command(["run"]) == 2, "it has no settings"
print(gc.isenabled())
"""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("TAGSTREAM_")}
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def process_around(worker: object, until_idle_s: float | None = None) -> Any:
    """The process of `tagstream run` around a worker."""
    made: Any = one_worker._Process(Settings(drain_s=1.0), until_idle_s=until_idle_s)
    made._worker = worker
    return made


def test_a_question_that_fails_once_keeps_no_idle_worker_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Idle:
        ready = True

        def __init__(self) -> None:
            self.errors = [MemoryError()]
            self.stopped = False

        def idle_s(self) -> float:
            if self.errors:
                raise self.errors.pop()
            return 60.0

        def stop(self) -> None:
            self.stopped = True

    monkeypatch.setattr("workers.cli.one_worker.end_within", lambda *_: None)
    worker = Idle()
    process_around(worker, until_idle_s=0.2)._stop_when_idle()
    assert worker.stopped


@pytest.mark.parametrize(
    ("unready", "notices", "ok", "reasons"),
    [
        (None, (), True, ()),
        (None, ("a bucket is away",), True, ("a bucket is away",)),
        ("joining the group", ("a bucket is away",), False, ("joining the group", "a bucket is away")),
    ],
)
def test_a_notice_stands_in_the_report_and_leaves_the_worker_ready(
    unready: str | None, notices: tuple[str, ...], ok: bool, reasons: tuple[str, ...]
) -> None:
    report = process_around(SimpleNamespace(unready=lambda: unready, notices=lambda: notices)).ready()
    assert (report.ok, report.reasons) == (ok, reasons)


def test_a_worker_tells_the_notices_of_its_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.manual_pipeline import ManualPipeline

    manual = ManualPipeline()
    assert manual.worker.notices() == ()
    monkeypatch.setattr(manual.pipeline.fetch, "notices", lambda: ["a bucket is away"])
    assert manual.worker.notices() == ("a bucket is away",)
