"""What libraries write beside the log becomes part of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from workers import metrics
from workers.service import stray_output

PROGRAM = """
import ctypes, os, sys, threading
from workers.service.logs import start_logging
from workers.service.stray_output import stray_output_logged

with stray_output_logged() as stderr:
    start_logging("info", "json", stream=stderr)
    os.write(2, b"ZIPDecode: \\x1b[2J broken\\n\\nno end")
    print("in Python")
    thread = threading.Thread(target=lambda: 1 / 0, name="unlucky")
    thread.start()
    thread.join()
    %s
os.write(2, b"afterwards\\n")
print("and out")
"""


def run(more: str = "pass") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM % more], capture_output=True, text=True, timeout=60)


def test_all_that_is_written_meanwhile_is_a_line_of_the_log_and_nothing_afterwards() -> None:
    done = run()
    *logged, last = done.stderr.splitlines()
    messages = [json.loads(line)["message"] for line in logged]
    assert messages[0] == "a library wrote: ZIPDecode: \x1b[2J broken"
    assert "a library wrote: ZeroDivisionError: division by zero" in messages
    assert any("no end" in message for message in messages)
    assert any("in Python" in message for message in messages)
    assert (last, done.stdout) == ("afterwards", "and out\n")


def test_a_writer_never_waits_even_where_no_thread_can_read() -> None:
    """A library may hold the interpreter's lock while it writes: here it floods the pipe with that lock held."""
    flood = "ctypes.PyDLL(None).write(2, b'x' * 999 + b'\\n', 1000)"
    done = run(f"[{flood} for _ in range(500)]")
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) < 100


@pytest.mark.slow
def test_what_a_child_holds_open_does_not_keep_the_process_from_ending() -> None:
    done = run("import subprocess; child = subprocess.Popen(['sleep', '5'], stdout=2)")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "and out\n"


def test_a_line_that_can_not_be_logged_keeps_none_after_it_from_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, b"first\nsecond\n")
    os.close(theirs)
    add, errors = metrics.STDERR_LINES.add, [MemoryError()]

    def short_of_memory(count: int, *, of: str) -> None:
        if errors:
            raise errors.pop()
        add(count, of=of)

    monkeypatch.setattr(metrics.STDERR_LINES, "add", short_of_memory)
    stray_output._log_lines(ours)
    assert caplog.messages == ["a library wrote: second"]
