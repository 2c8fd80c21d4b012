"""What containers run."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def forked() -> None:
    """None is needed: a process starts as a container's does."""
