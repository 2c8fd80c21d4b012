"""The wheel with the networks."""

from pathlib import Path

import pytest

from tagstream_testing.local.programs import ocr_wheel
from tests.support.missing import skip_or_fail


@pytest.fixture(scope="session")
def wheel() -> Path:
    return ocr_wheel() or skip_or_fail("no wheel of rapidocr: scripts/install could not download it")
