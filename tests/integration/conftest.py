"""Topics and a bucket on the session's servers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fixtures import Stack
from tests.support.worker_process import Site


@pytest.fixture
def site(stack: Stack, unique: Callable[[str], str]) -> Site:
    """A site of this test alone."""
    return Site(stack, unique("line"))
