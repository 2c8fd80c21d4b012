"""How long it takes to lay a captioner out."""

from __future__ import annotations

import subprocess
import sys

import pytest

LAY_OUT = """
import sys
from workers.models.ram.networks import empty_model
from workers.models.ram.config import PUBLISHED
empty_model(PUBLISHED["tag2text"])
print([name for name in ("sympy", "triton", "torch._dynamo") if name in sys.modules])
"""


@pytest.mark.slow
def test_an_empty_captioner_does_not_import_torchs_compiler() -> None:
    run = subprocess.run([sys.executable, "-c", LAY_OUT], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
