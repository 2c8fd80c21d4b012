"""The benchmark of the models, run at a small size, alone and with a program in place of the official one."""

import re
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks import arithmetic, models
from benchmarks.official import Official
from tests.unit.models.small import CPU, SMALL, small_bundle
from workers.models.precision import DRIFT
from workers.models.ram import config
from workers.models.ram.config import PUBLISHED, Kind

pytestmark = pytest.mark.slow

COMPUTED = ("encoder", "head")
TAGGING = ["upload", "encoder", "head", "results", "tagging", "head, 60 labels", "tagging, 60 labels"]

BOTH = [models.Variant("fp32"), models.Variant("bf16")]

STAND_IN = """
import torch


class Model(torch.nn.Module):
    def __init__(self, **asked):
        super().__init__()
        assert asked["vit"] == "swin_l" and asked["pretrained"] == "" and asked["text_encoder_type"]
        self.register_buffer("label_embed", torch.zeros(60, 512))

    def generate_tag(self, image):
        assert image.shape == (1, 3, 64, 64)
        print("noise of the official code")
        shown = self.label_embed[:, 0] > 0
        return [" | ".join(self.tag_list[shown.numpy()])], None


def ram(**asked):
    return Model(**asked)
"""


@pytest.fixture(autouse=True)
def _small_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix product that stages are compared with, at a size that tells nothing and takes no time."""
    monkeypatch.setitem(arithmetic.CEILING_SIDES, "cpu", 64)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a package `ram` that answers from the weights it was given."""
    package = tmp_path / "checkout" / "ram"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "models.py").write_text(STAND_IN)
    return package.parent


def printed(console: Console) -> str:
    text = console.export_text()
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("kind", "stages"),
    [
        ("ram", TAGGING),
        ("ram_plus", TAGGING),
        ("tag2text", [*TAGGING, "tag encoder", "decode"]),
    ],
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


@pytest.fixture
def _compiler_that_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that later settings are taken back
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


@pytest.mark.usefixtures("_compiler_that_changes_nothing")
def test_executions_are_listed_with_each_other_and_missing_abilities_are_named(tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    variants = [models.Variant("fp32"), models.Variant("fp32", "graphs"), models.Variant("fp32", "compiled")]
    bundle = small_bundle("ram", tmp_path / "ram")
    found = models.measure(bundle, CPU, variants, rounds=1, batch=3, official=None, console=console)
    assert [str(variant) for variant in found] == ["fp32", "fp32 compiled"]
    assert len({ceiling for measured in found.values() for ceiling in measured.ceilings}) == 1, "that of the precision"
    lines = [line.split() for line in console.export_text(clear=False).splitlines()]
    for stage in ("upload", "encoder", "head", "results"):
        for name in (["fp32"], ["fp32", "compiled"]):
            (row,) = [line[len(name) + 1 :] for line in lines if line[: len(name) + 1] == [*name, stage]]
            assert row[5].endswith("%"), "its share of the time"
            # operations, a second, and the share of a matmul: the middle one, (least to most)
            assert ["%" in each for each in row[6:]] == ([False] * 2 + [True] * 2 + [False, True]) * (stage in COMPUTED)
    text = printed(console)
    assert "fp32 graphs: A CPU has no CUDA graphs." in text
    assert text.count("the golden answers: 2 of 2 tag sets, logits within") == 2
    assert "; with fp32: 4 of 4 tag sets, logits within" in text


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


def test_the_official_program_runs_in_its_own_process(checkout: Path, tmp_path: Path) -> None:
    bundle = small_bundle("ram", tmp_path / "ram")
    shown = (bundle.weights()["label_embed"][:, 0] > 0).nonzero().flatten().tolist()
    console = Console(record=True, width=200)
    with Official(checkout, sys.executable, bundle, models.samples(bundle, models.COMPARED)) as official:
        seconds, tags = official.tag(1)
        models.measure(bundle, CPU, BOTH[:1], rounds=1, batch=1, official=official, console=console)
    assert seconds >= 0
    assert tags == " | ".join(f"label {number}" for number in shown)
    assert "times as fast, with the same 0 of 4 tag sets" in printed(console)
