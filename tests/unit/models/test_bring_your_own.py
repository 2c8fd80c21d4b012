"""docs/guide/models-bring-your-own.md, executed: the builder, the bundle and the conformance suite as printed there."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

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
"""Random weights as they are drawn answer every image alike; these statistics make them tell images apart."""


MAKE_AND_TEST = """
import runpy, sys
import pytest

runpy.run_path("make.py", run_name="__main__")
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "test_mine.py"]))
"""
"""In one process, because torch and timm take longer to load than all else here."""


@dataclass(frozen=True)
class Followed:
    """What came of doing as the page says: the bundle's folder, and what the conformance suite printed."""

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


def test_the_pages_builder_is_about_thirty_lines() -> None:
    assert len([line for line in BUILDER.splitlines() if line.strip()]) <= 32


def test_the_pages_bundle_has_the_files_that_the_page_lists(followed: Followed) -> None:
    listed = set(re.findall(r"^        (\S+)  ", PAGE, re.MULTILINE))
    assert {path.name for path in followed.bundle.iterdir()} == listed


def test_the_pages_tagger_passes_the_pages_conformance_suite(followed: Followed) -> None:
    assert re.search(r"^11 passed", followed.told, re.MULTILINE), followed.told
