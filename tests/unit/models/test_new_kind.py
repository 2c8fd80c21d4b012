"""A model of a new kind is written in the places that CONTRIBUTING.md names, and every command knows it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.unit.models.small import SMALL, small_checkpoint
from workers.cli.app import run_command
from workers.models import load, pull
from workers.models.bundle import Bundle
from workers.models.ram import config, keys, networks
from workers.models.tagger import sample_image

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class WarmConfig(config.RamConfig):
    facts: ClassVar = config.KindFacts("warm_ram", "Warm RAM", clip=True)


class Warm(networks.Ram):
    """RAM with a temperature of its logits."""

    def __init__(self, sizes: config.RamConfig) -> None:
        super().__init__(sizes)
        self.warmth = nn.Parameter(torch.ones(()))

    def classify(self, hidden: Tensor, labels: slice | Tensor) -> Tensor:
        return super().classify(hidden, labels) * self.warmth


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind, added to each of its places."""
    ram = SMALL["ram"]
    kind = WarmConfig.facts.kind
    monkeypatch.setitem(config.PUBLISHED, kind, WarmConfig(ram.encoder, ram.labels, ram.head))
    monkeypatch.setitem(config.PUBLISHED, "ram", ram)
    monkeypatch.setitem(networks.NETWORKS, WarmConfig, Warm)
    monkeypatch.setitem(keys.TOP, WarmConfig, {**keys.TOP[config.RamConfig], "warmth": "warmth"})
    monkeypatch.setattr(keys, "MARKS", {"warmth": kind, **keys.MARKS})
    files = replace(pull.PUBLISHED["ram"].checkpoint, name="warm.pth", sha256=("0" * 64,))
    monkeypatch.setitem(pull.PUBLISHED, kind, replace(pull.PUBLISHED["ram"], checkpoint=files))
    monkeypatch.setitem(load.BUILDERS, kind, load.BUILDERS["ram"])  # made of PUBLISHED when it is imported
    return kind


def test_a_new_kind_is_imported_verified_listed_relabelled_and_drawn(
    warm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_checkpoint("ram", tmp_path / "warm.pth", {"warmth": torch.tensor(2.0)})
    small_checkpoint("ram", tmp_path / "ram.pth")
    tags = tmp_path / "tags.txt"
    tags.write_text("".join(f"tag {number}\n" for number in range(SMALL["ram"].labels)))
    for name in ("warm", "ram"):
        out = tmp_path / "bundles" / name
        command = ["models", "import", str(tmp_path / f"{name}.pth"), "--tags", str(tags), "-o", str(out)]
        assert run_command([*command, "--dtype", "fp32"]) == 0
    bundles = tmp_path / "bundles"
    made = Bundle.open(bundles / "warm")
    assert (made.manifest.kind, made.name, load.uses_of(made)) == (warm, "Warm RAM", ["tagger"])
    images = [sample_image(made.transform.size)]
    hot, cold = (load.load_tagger(bundles / n, device="cpu", precision="fp32").forward(images) for n in ("warm", "ram"))
    assert torch.allclose(torch.tensor(hot[0]), 2 * torch.tensor(cold[0]), atol=1e-4)
    assert run_command(["models", "verify", str(bundles / "warm"), "--device", "cpu", "--precision", "fp32"]) == 0
    assert run_command(["models", "random", "warm-ram", "-o", str(bundles / "drawn")]) == 0
    save_file({"e": nn.functional.normalize(torch.ones(2, 512), dim=1)}, tmp_path / "e.safetensors")
    (tmp_path / "names.txt").write_text("hen\nox\n")
    options = ["--embeddings", str(tmp_path / "e.safetensors"), "--names", str(tmp_path / "names.txt")]
    assert run_command(["models", "labels", str(bundles / "warm"), *options, "-o", str(bundles / "farm")]) == 0
    capsys.readouterr()
    assert run_command(["models", "list", "--json", str(bundles)]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {each["name"]: each["kind"] for each in listed if each["kind"] == warm} == {"Warm RAM": warm}
    assert sum(each["kind"] == warm for each in listed) == 3


def test_a_word_that_is_no_kind_is_refused_with_the_kinds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command(["models", "random", "warm-ram", "-o", str(tmp_path / "x")]) == 2
    assert "tag2text" in capsys.readouterr().err
