"""Topics and a bucket on the session's servers."""

import pytest

from tests.fixtures import Stack, Unique
from tests.support.worker_process import Site


@pytest.fixture
def site(stack: Stack, unique: Unique) -> Site:
    """A site of this test alone."""
    return Site(stack, unique("line"))
