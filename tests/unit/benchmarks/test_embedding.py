"""The benchmark of embeddings, run with few events: it ends at once where an event fails."""

import pytest

from benchmarks import embedding

pytestmark = pytest.mark.slow


def test_both_are_measured_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    found = embedding.main(events=8, rounds=2, lot=4)
    assert set(found) == {"tags again", "tags and embedding"}
    assert all(ratio > 0 for ratio in found.values())
    assert "2 rounds of 8 events" in capsys.readouterr().out
