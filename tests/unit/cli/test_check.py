"""What `tagstream check` says of a dependency that does not answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workers.cli import check
from workers.errors import Misconfigured, Unavailable
from workers.settings import Settings


def fails(error: Exception) -> str:
    raise error


def test_a_finding_names_the_dependency_once_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def questions(_: Settings) -> Iterator[tuple[str, object]]:
        yield "Kafka", lambda: fails(Unavailable("kafka", "no broker answers", advice="Start one."))
        yield "Redis", lambda: fails(Unavailable("redis", "it is loading"))
        yield "Memory", lambda: fails(Misconfigured("there is too little"))

    monkeypatch.setattr(check, "_questions", questions)
    found = [(finding.about, finding.says) for finding in check.findings_of(Settings())]
    assert found == [
        ("Kafka", "no broker answers\nStart one."),
        ("Redis", "it is loading"),
        ("Memory", "there is too little"),
    ]


@pytest.mark.parametrize("there", [False, True])
def test_a_device_that_is_asked_for_by_name_is_looked_for(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    asked = dict(check._questions(Settings(device="cuda")))
    if there:
        assert asked["Device"]() == "torch finds a CUDA device"
    else:
        with pytest.raises(Misconfigured, match="torch finds no CUDA device; check the driver"):
            asked["Device"]()
    assert "Device" not in dict(check._questions(Settings()))
