"""The image under test, and its containers."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.image.container import Container, Image, memory_by
from tests.support.missing import skip_or_fail
from tests.unit.deploy.tools import Manifest


def pytest_report_header() -> str:
    return f"memory of containers: limited by {memory_by()}"


@pytest.fixture(scope="session")
def image() -> Image:
    """What scripts/image.py built. Without it the test is skipped, or fails where CI is set."""
    told = os.environ.get("TAGSTREAM_IMAGE")
    if told is None:
        why = os.environ.get("TAGSTREAM_IMAGE_MISSING", "make image builds it")
        skip_or_fail(f"no image: {why}")
    config = json.loads(told)
    return Image(config["target"], Path(config["root"]), config)


@pytest.fixture
def container(image: Image, tmp_path: Path) -> Iterator[Callable[..., Container]]:
    """Makes containers of the image; their processes and control groups end with the test."""
    made: list[Container] = []

    def make(manifests: Sequence[Manifest], *, name: str = "", **options: Any) -> Container:
        folder = tmp_path / f"{name}-{len(made)}"
        folder.mkdir()
        made.append(Container(image, manifests, folder, name=name, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
