"""A worker in memory and a manual pipeline, as most tests want them."""

import pytest

from tests.support.harness import Harness
from tests.support.manual_pipeline import ManualPipeline


@pytest.fixture
def harness() -> Harness:
    return Harness()


@pytest.fixture
def manual() -> ManualPipeline:
    return ManualPipeline()
