"""Tests that take long and do not say so (tests/support/durations.py)."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
TESTS = """
import threading, time
import pytest

def work(seconds=0.6):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

@pytest.fixture
def shared():
    work()

def test_quick(shared): pass
def test_that_waits(): time.sleep(0.6)
def test_that_imports(): import module_that_works
def test_heavy(): work()
def test_with_a_heavy_thread():
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
@pytest.mark.slow
def test_that_says_so(): work()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chosen", "beside_others", "too_heavy"),
    [
        (".", {}, {"test_heavy", "test_with_a_heavy_thread"}),
        ("test_it.py::test_heavy", {"PYTEST_XDIST_WORKER": "gw0"}, set()),
    ],
    ids=["alone", "beside other processes of pytest"],
)
def test_an_unmarked_test_of_more_than_half_a_second_of_processor_time_fails(
    tmp_path: Path, chosen: str, beside_others: dict[str, str], too_heavy: set[str]
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "module_that_works.py").write_text("import test_it\ntest_it.work()\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.durations", "-p", "no:cacheprovider", "-rA", chosen]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": f"{CHECKOUT}", **beside_others}, capture_output=True, text=True
    )
    failed = {line.split()[1].partition("::")[2] for line in done.stdout.splitlines() if line.startswith("FAILED")}
    assert failed == too_heavy, done.stdout
