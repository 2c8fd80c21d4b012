"""benchmarks/RESULTS.md, compared with the series that `make kube` wrote."""

import pytest

from tests.kube.report import in_rows, in_words, read
from tests.kube.rollout import Sample
from tests.unit.deploy.tools import ROOT


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return read(ROOT / "benchmarks" / "autoscaling.csv")


def test_the_page_says_in_words_what_was_seen(page: str, samples: list[Sample]) -> None:
    assert in_words(samples) in " ".join(page.split())


def test_the_page_has_what_was_seen_as_a_table(page: str, samples: list[Sample]) -> None:
    assert in_rows(samples) in page
