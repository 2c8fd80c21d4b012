"""What the benchmark of a start makes of a log and of its rounds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.start import STEPS, spread, steps_s

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_step_ends_with_the_first_line_that_says_so(tmp_path: Path) -> None:
    said = [*STEPS.values(), *STEPS.values()]
    lines = [
        json.dumps({"time": (BEGAN + timedelta(seconds=second**2)).isoformat(), "message": f"{message} …"})
        for second, message in enumerate(said, 1)
    ]
    log = tmp_path / "worker.log"
    log.write_text("\n".join(["no JSON", *lines]))
    assert steps_s(log, BEGAN) == (1, 3, 5, 7)


def test_each_round_is_compared_with_its_own_import() -> None:
    assert spread([3.0, 9.0, 5.0], [1.0, 8.0, 1.0], "s") == "2.00 s (1.00 s to 4.00 s)"
    assert spread([700.0], [550.0], "MB") == "150 MB (150 MB to 150 MB)"
