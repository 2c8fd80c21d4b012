"""The benchmark of the models, run at a small size, alone and with a program in place of the official one."""

import re
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import arithmetic, models
from tests.unit.models.small import CPU, SMALL, small_bundle
from workers.models.precision import DRIFT
from workers.models.ram import config
from workers.models.ram.config import PUBLISHED, Kind

pytestmark = pytest.mark.slow
TAGGING = ["upload", "encoder", "head", "results", "tagging", "head, 60 labels", "tagging, 60 labels"]

BOTH = [models.Variant("fp32"), models.Variant("bf16")]


@pytest.fixture(autouse=True)
def _small_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix product that stages are compared with, at a size that tells nothing and takes no time."""
    monkeypatch.setitem(arithmetic.CEILING_SIDES, "cpu", 64)


def printed(console: Console) -> str:
    text = console.export_text()
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("kind", "stages"), [("ram", TAGGING), ("ram_plus", TAGGING), ("tag2text", [*TAGGING, "tag encoder", "decode"])]
)
def test_every_stage_of_every_precision_is_timed_and_compared(kind: Kind, stages: list[str], tmp_path: Path) -> None:
    bundle = small_bundle(kind, tmp_path / kind)
    console = Console(record=True, width=200, quiet=False)
    found = models.measure(bundle, CPU, BOTH, rounds=2, batch=2, official=None, console=console)
    for measured in found.values():
        assert list(measured.seconds) == stages
        assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in measured.seconds.values())
        assert len(measured.ceilings) == 2
        assert min(measured.ceilings) > 0
        assert len(measured.total()) == 2
    text = printed(console)
    assert "bf16 in all" in text
    assert re.search(r"bf16, a profile of 60 of 60 labels: the head \S+ \(.*\) times as fast, tagging \S+ \(", text)
    assert "of 4 tag sets, logits within" in text
    assert ("of 4 captions under the same guide" in text) == (kind == "tag2text")


def test_a_run_fails_where_a_variant_does_not_give_its_golden_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(config.PUBLISHED, "ram", SMALL["ram"])
    asked = ["--models", "ram", "--device", "cpu", "--rounds", "1", "--bundles", str(tmp_path)]
    asked += ["--precisions", "fp32", "bf16"]
    assert models.main(asked) == 0
    capsys.readouterr()
    monkeypatch.setitem(DRIFT, "bf16", 1e-9)
    assert models.main(asked) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "in bf16 does not give its golden answers" in said
    assert "fp32 in all" in said
    assert "bf16 in all" not in said


@pytest.mark.parametrize(
    ("found", "published"),
    [
        (arithmetic.encoder(PUBLISHED["ram"].encoder), 207.6e9),
        (arithmetic.encoder(PUBLISHED["tag2text"].encoder), 94.2e9),
    ],
)
def test_an_encoder_takes_its_papers_input(found: int, published: float) -> None:
    """Swin's paper: 103.9 and 47.1 billion multiply-adds at 384 (of ours the first is an addition too)."""
    assert found == pytest.approx(published, rel=0.02)
