from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tagstream_testing.local.endings import run_until_ended

# Swallows whatever is raised in it, as a client library's event loop does.
SWALLOWS = """
import signal, sys, time
from tagstream_testing.local.endings import run_until_ended

def work():
    print("working", flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def clean(which):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    print("cleaned after", which.name)
    return 128 + which

run_until_ended(work, clean)
"""


def test_the_works_answer_comes_out() -> None:
    assert run_until_ended(lambda: 42, lambda which: 1) == 42


def test_the_works_error_comes_out() -> None:
    def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_until_ended(work, lambda which: 1)


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_work_that_would_not_hear_of_it(which: signal.Signals, code: int) -> None:
    with subprocess.Popen([sys.executable, "-c", SWALLOWS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(which)
        output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (code, f"cleaned after {which.name}\n")


def test_afterwards_signals_mean_what_they_meant() -> None:
    before = signal.getsignal(signal.SIGINT)
    run_until_ended(lambda: None, lambda which: 1)
    assert signal.getsignal(signal.SIGINT) is before
