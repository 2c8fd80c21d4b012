"""Fixtures of the parity suite. The full-size half runs only with `pytest -m full`."""

import gc
from collections.abc import Iterator

import pytest
from torch import Tensor

from tests.parity.subjects import Subject
from workers.models.ram.config import PUBLISHED, Kind

KINDS = tuple(PUBLISHED)
TEXT_KINDS: tuple[Kind, ...] = ("ram", "tag2text")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "full" in config.option.markexpr:
        return
    skip = pytest.mark.skip(reason="full size: about 4 GB and some minutes, `make parity`")
    for item in items:
        if item.get_closest_marker("full"):
            item.add_marker(skip)


def _subjects(kinds: tuple[Kind, ...]) -> list[object]:
    return [
        pytest.param((kind, size), id=f"{kind}-{size}", marks=[pytest.mark.full] if size == "full" else [])
        for kind in kinds
        for size in ("small384", "full")
    ]


def _subject(kind: Kind, size: str) -> Iterator[Subject]:
    yield Subject(kind, size)
    gc.collect()  # a full-size model before the next one is made


@pytest.fixture(scope="session", params=_subjects(KINDS))
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    yield from _subject(*request.param)


@pytest.fixture(scope="session")
def logits(subject: Subject) -> Tensor:
    """Of both images and all labels."""
    return subject.model.score(subject.embeds)


@pytest.fixture(scope="session", params=_subjects(TEXT_KINDS))
def writer(request: pytest.FixtureRequest) -> Iterator[Subject]:
    yield from _subject(*request.param)


@pytest.fixture(scope="session", params=_subjects(("tag2text",)))
def tag2text(request: pytest.FixtureRequest) -> Iterator[Subject]:
    yield from _subject(*request.param)
