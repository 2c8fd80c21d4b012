"""The wheel with the networks."""

import os
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def wheel() -> Path:
    """What `scripts/install` downloads. Without it the test is skipped, or fails where CI is set."""
    path = Path(sys.prefix, "share", "tagstream", "rapidocr-3.10.0-py3-none-any.whl")
    if not path.exists():
        why = f"no {path.name}: scripts/install could not download it"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    return path
