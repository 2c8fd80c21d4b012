"""The limit of open files, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

RAISE = """
import resource
from workers.service.logs import start_logging
from workers.service.descriptors import raise_descriptor_limit
start_logging("info", "text")
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
assert raise_descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("soft", "hard", "then"), [(256, 2048, 2048), (64, 512, 512), (2048, 2048, 2048)])
def test_a_process_may_open_what_the_hard_limit_allows(soft: int, hard: int, then: int) -> None:
    code = RAISE.format(soft=soft, hard=hard)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == then
    assert ("raise the hard limit" in done.stderr) is (then < 1024)
