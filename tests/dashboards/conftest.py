"""A Prometheus for a file of tests; `make dashboards` builds it."""

from collections.abc import Iterator

import pytest

from tagstream_testing.local.scratch import Scratch
from tests.fixtures import up_or_skip
from tests.support.prometheus import Prometheus


@pytest.fixture(scope="module")
def prometheus(scratch: Scratch) -> Iterator[Prometheus]:
    """Without rules, and scraping nothing yet."""
    yield from up_or_skip(Prometheus(scratch.path / "prometheus", every_s=2))
