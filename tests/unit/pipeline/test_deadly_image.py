"""An image that kills the process: the journal ends it after the second death, and blames no other."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.harness import IN, Harness
from tests.support.waiting import eventually
from tests.unit.pipeline.deadly import DEADLY_ONE, IMAGES


@pytest.mark.slow
@pytest.mark.parametrize("where", ["device", "header"])
def test_an_image_that_kills_the_process_is_poison_and_the_others_come_through(tmp_path: Path, where: str) -> None:
    """Guard: Journal.enter, before the header is read. Without it the process dies at every start, for ever."""
    journal, result = tmp_path / "journal", tmp_path / "result"
    command = [sys.executable, "-m", "tests.unit.pipeline.deadly", str(journal), str(result), where]
    codes = [subprocess.run(command, capture_output=True, check=False, timeout=60).returncode for _ in range(4)]
    assert codes == [-signal.SIGABRT, -signal.SIGABRT, -signal.SIGABRT, 0]
    deaths = (tmp_path / "result.deaths").read_text().split()
    assert deaths[1:] == ["1", "1"], "after its first try it was not alone"
    found = json.loads(result.read_text())
    assert found["failures"] == [["annotate", "kills-worker", DEADLY_ONE]]
    assert len(found["enriched"]) == IMAGES - 1
    assert journal.read_bytes() == b""


def test_a_poison_image_stays_so_until_its_dead_letter_is_committed(tmp_path: Path) -> None:
    """Guard: Pipeline.settle tells the journal, and nothing else clears it."""
    journal = tmp_path / "journal"
    journal.write_text(f"# {IN} 0 0 0\n")
    harness = Harness(partitions=1)
    harness.put("a.png", (1, 2, 3))
    harness.send(harness.event("a.png"))
    away = threading.Event()

    def leave() -> None:
        harness.broker.away = True
        away.set()

    harness.broker.before_commit = leave
    with harness.running(journal=journal, drain_s=0.3):
        assert away.wait(30)
    assert harness.dead() == []
    assert journal.read_text() == f"# {IN} 0 0 0\n"
    harness.broker.before_commit = None
    harness.broker.away = False
    with harness.running(journal=journal):
        harness.settled()
        eventually(lambda: journal.read_text().splitlines()[-1] == f"- {IN} 0 0 0")
    assert [(f.stage, f.reason) for dead_letter in harness.dead() for f in dead_letter.failures] == [
        ("annotate", "kills-worker")
    ]
    assert journal.read_bytes() == b""
