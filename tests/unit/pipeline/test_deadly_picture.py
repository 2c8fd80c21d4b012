"""A picture that kills the process: the journal ends it after the second death, and charges nobody else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.unit.pipeline.deadly import GUILTY, PICTURES


def test_a_picture_that_kills_the_process_is_condemned_and_the_others_come_through(tmp_path: Path) -> None:
    """Guard: Journal.enter. Without it the process dies at every start, for ever."""
    journal, result = tmp_path / "journal", tmp_path / "result"
    command = [sys.executable, "-m", "tests.unit.pipeline.deadly", str(journal), str(result)]
    codes = [subprocess.run(command, capture_output=True, check=False, timeout=60).returncode for _ in range(4)]
    assert codes == [-signal.SIGABRT, -signal.SIGABRT, -signal.SIGABRT, 0]
    deaths = (tmp_path / "result.deaths").read_text().split()
    assert deaths[1:] == ["1", "1"], "after its first try it was not alone"
    found = json.loads(result.read_text())
    assert found["failures"] == [["annotate", "kills-worker", GUILTY]]
    assert len(found["enriched"]) == PICTURES - 1
    assert journal.read_bytes() == b""
