"""A worker of a test has other values of what no setting changes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tagstream_testing.local.tuned import tune

SAYS = """
from tagstream_testing.local.tuned import tune
tune({"unreadable_s": "4", "encoded_bytes": "40MiB"})
from workers.pipeline.options import WorkerOptions
from workers.settings import read
options = WorkerOptions.of(read({}))
print(options.unreadable_s, options.encoded_bytes, WorkerOptions().unreadable_s)
"""


def test_what_is_tuned_reaches_the_pipeline() -> None:
    """In a process of its own: it changes the defaults of all settings that are read after it."""
    said = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["4.0", str(40 << 20), "4.0"]


def test_a_setting_is_set_by_its_variable() -> None:
    with pytest.raises(ValueError, match="drain_s"):
        tune({"drain_s": "3"})
