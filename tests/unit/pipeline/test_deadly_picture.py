"""A picture that kills the process: the journal ends it after the second death, and charges nobody else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.unit.pipeline.deadly import GUILTY, PICTURES
from tests.unit.pipeline.rig import IN, Rig, eventually


@pytest.mark.parametrize("where", ["device", "header"])
def test_a_picture_that_kills_the_process_is_condemned_and_the_others_come_through(tmp_path: Path, where: str) -> None:
    """Guard: Journal.enter, before the header is read. Without it the process dies at every start, for ever."""
    journal, result = tmp_path / "journal", tmp_path / "result"
    command = [sys.executable, "-m", "tests.unit.pipeline.deadly", str(journal), str(result), where]
    codes = [subprocess.run(command, capture_output=True, check=False, timeout=60).returncode for _ in range(4)]
    assert codes == [-signal.SIGABRT, -signal.SIGABRT, -signal.SIGABRT, 0]
    deaths = (tmp_path / "result.deaths").read_text().split()
    assert deaths[1:] == ["1", "1"], "after its first try it was not alone"
    found = json.loads(result.read_text())
    assert found["failures"] == [["annotate", "kills-worker", GUILTY]]
    assert len(found["enriched"]) == PICTURES - 1
    assert journal.read_bytes() == b""


def test_a_condemned_picture_stays_so_until_its_dead_letter_is_committed(tmp_path: Path) -> None:
    """Guard: Line.settle tells the journal, and nothing else clears it."""
    journal = tmp_path / "journal"
    journal.write_text(f"# {IN} 0 0 0\n")
    rig = Rig(partitions=1)
    rig.put("a.png", (1, 2, 3))
    rig.send(rig.event("a.png"))
    away = threading.Event()

    def leave() -> None:
        rig.broker.away = True
        away.set()

    rig.broker.before_commit = leave
    with rig.running(journal=journal, drain_s=0.3):
        assert away.wait(10)
    assert rig.dead() == []
    assert journal.read_text() == f"# {IN} 0 0 0\n"
    rig.broker.before_commit = None
    rig.broker.away = False
    with rig.running(journal=journal):
        rig.settled()
        eventually(lambda: journal.read_text().splitlines()[-1] == f"- {IN} 0 0 0")
    assert [(f.stage, f.reason) for letter in rig.dead() for f in letter.failures] == [("annotate", "kills-worker")]
    assert journal.read_bytes() == b""
