"""docs/guide/models-bring-your-own.md, executed as printed; and a new kind in the places that CONTRIBUTING.md names."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from tests.support.command import Tagstream
from tests.unit.models.small import SMALL, small_checkpoint
from workers.cli.app import run_command
from workers.models import load, pull
from workers.models.bundle import Bundle
from workers.models.ram import config, keys, networks
from workers.models.ram.relabel import with_matrix
from workers.models.tagger import sample_image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "guide" / "models-bring-your-own.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
BUILDER, MAKE, CONFORMANCE = (text for language, text in BLOCKS if language == "python")
(ENTRY_POINT,) = (text for language, text in BLOCKS if language == "toml")


def _entry_points_file() -> str:
    groups = tomllib.loads(ENTRY_POINT)["project"]["entry-points"]
    return "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in groups.items()
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is to Python as if the page's package were installed in it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "my_tagger.py").write_text(BUILDER)
    (folder / "test_mine.py").write_text(CONFORMANCE)
    facts = folder / "my_tagger-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-tagger\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(_entry_points_file())
    return folder


def _run(folder: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


SEED = """
import torch

torch.manual_seed(0)
"""
"""Before any weight is drawn: by some dice, one time in many, two of the suite's images have the same scores."""


ENLIVEN = """
for module in network.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.momentum = 1.0
network.train()(torch.randn(8, 3, 224, 224))
network.eval()
torch.nn.init.normal_(network.classifier.weight)
"""
"""Freshly drawn weights answer every image alike; these statistics make the answers differ."""


MAKE_AND_TEST = """
import runpy, sys
import pytest

runpy.run_path("make.py", run_name="__main__")
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "test_mine.py"]))
"""
"""In one process, because torch and timm take longer to load than all else here."""


@dataclass(frozen=True)
class Followed:
    """The result of the page's steps: the bundle's folder, and the output of the conformance suite."""

    bundle: Path
    told: str


@pytest.fixture(scope="module")
def followed(installed: Path) -> Followed:
    """With random weights in the place of pretrained ones, which would need a download."""
    before, pretrained, after = MAKE.partition("pretrained=True)\n")
    assert pretrained
    (installed / "make.py").write_text(f"{SEED}{before}pretrained=False)\n{ENLIVEN}{after}")
    told = _run(installed, "-c", MAKE_AND_TEST)
    return Followed(installed / "bundles" / "mobilenet", told)


def test_the_pages_entry_point_names_its_module(installed: Path) -> None:
    (distribution,) = importlib.metadata.distributions(path=[str(installed)])
    assert [(point.group, point.name, point.value) for point in distribution.entry_points] == [
        ("tagstream.models", "my-timm", "my_tagger")
    ]


def test_the_pages_bundle_has_the_files_that_the_page_lists(followed: Followed) -> None:
    listed = set(re.findall(r"^        (\S+)  ", PAGE, re.MULTILINE))
    assert {path.name for path in followed.bundle.iterdir()} == listed


def test_the_pages_tagger_passes_the_pages_conformance_suite(followed: Followed) -> None:
    assert re.search(r"^11 passed", followed.told, re.MULTILINE), followed.told


@dataclass(frozen=True, slots=True)
class WarmConfig(config.RamConfig):
    facts: ClassVar = config.KindFacts("warm_ram", "Warm RAM", clip=True)


class Warm(networks.Ram):
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
    warm: str, tmp_path: Path, tagstream: Tagstream
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
    matrix = nn.functional.normalize(torch.ones(2, 512), dim=1)
    with_matrix(made, matrix, ("hen", "ox"), bundles / "farm", source=Path("names.txt"))
    listed = [json.loads(line) for line in tagstream("models", "list", "--json", bundles).done.splitlines()]
    assert {each["name"]: each["kind"] for each in listed if each["kind"] == warm} == {"Warm RAM": warm}
    assert sum(each["kind"] == warm for each in listed) == 3


def test_a_word_that_is_no_kind_is_refused_with_the_kinds(tagstream: Tagstream, tmp_path: Path) -> None:
    assert "tag2text" in tagstream("models", "random", "warm-ram", "-o", tmp_path / "x").fails()
