"""Topics and a bucket on the session's servers."""

from collections.abc import Iterator

import pytest

from tests.fixtures import Stack, Unique
from tests.support.forked import MayFork
from tests.support.worker_process import Site


@pytest.fixture(autouse=True, scope="module")
def forked() -> Iterator[None]:
    """Workers and indexers are forked; others are started for each test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MayFork, "forks", True)
        yield


@pytest.fixture
def site(stack: Stack, unique: Unique) -> Site:
    return Site(stack, unique("line"))
