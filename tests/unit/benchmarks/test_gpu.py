"""What `make gpu` runs on a GPU, at small sizes on a processor; how it bears steps that fail; and the kit."""

import json
import os
import shutil
import subprocess
import time
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_steps
from benchmarks.gpu import Figures, Parts, Report, Scale, Step
from workers.errors import Broken
from workers.models.precision import DRIFT

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[3]
TORCH = ["numpy", "numpy.libs", "torch", "torchgen", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec"]
TORCH += ["filelock", "typing_extensions.py", "nvidia"]


def good(scale: Scale) -> Parts:
    yield "works", lambda: {"size": scale.size}


def failing(_: Scale) -> Parts:
    yield "fails", lambda: {"never": 1 // 0}
    yield "works", lambda: {"one": 1}


def losing(_: Scale) -> Parts:
    yield "ends its process", lambda: os._exit(3)
    yield "comes after", lambda: {"one": 1}


def sleeping(seconds: float) -> Figures:
    time.sleep(seconds)
    return {}


def slow(_: Scale) -> Parts:
    yield "works", lambda: {"one": 1}
    yield "takes long", partial(sleeping, 120)
    yield "comes after", lambda: {"one": 1}


@pytest.fixture
def scale(tmp_path: Path) -> Scale:
    return gpu.small(tmp_path)


def run(scale: Scale, seconds: float, **steps: Callable[[Scale], Parts]) -> Report:
    return gpu.run(
        {name: Step(parts, 1) for name, parts in steps.items()}, scale, time.monotonic() + seconds, lambda report: None
    )


def test_what_fails_is_a_row_with_its_error_and_the_next_part_and_step_run(scale: Scale) -> None:
    report = run(scale, 60, failing=failing, losing=losing, good=good)
    assert [(row.step, row.part, dict(row.figures), row.error) for row in report.rows] == [
        ("failing", "fails", {}, "ZeroDivisionError: integer division or modulo by zero"),
        ("failing", "works", {"one": 1}, ""),
        ("losing", "ends its process", {}, "its process ended with 3"),
        ("good", "works", {"size": "small384"}, ""),
    ]
    assert report.left == ["losing: comes after"]


def test_a_step_ends_with_its_share_of_the_time_and_what_is_left_is_said(scale: Scale) -> None:
    report = run(scale, 30, slow=slow, good=good)
    assert [(row.step, row.part) for row in report.rows] == [("slow", "works"), ("good", "works")]
    assert report.left == ["slow: takes long", "slow: comes after"]
    assert run(scale, 0, good=good).left == ["good"]


@pytest.mark.timeout(540)
def test_the_kit_runs_every_step_at_small_sizes_beside_torch_and_numpy_alone(tmp_path: Path) -> None:
    subprocess.run([CHECKOUT / "scripts" / "gpu-kit"], check=True)
    shutil.unpack_archive(CHECKOUT / "build" / "gpu-kit.tar.gz", tmp_path)
    arguments = ["-m", "benchmarks", "gpu", "--small", "--device", "cpu", "--folder", "."]
    command = [str(python_with_torch(tmp_path / "bare")), *arguments]
    settings = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": "packages:source:source/testing"}
    done = subprocess.run(command, cwd=tmp_path / "gpu-kit", env=settings, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "gpu-kit" / "build" / "gpu.json").read_text())
    assert list(dict.fromkeys(row["step"] for row in document["rows"])) == list(gpu.STEPS)
    assert document["left"] == []
    found = {(row["step"], row["part"]): row["figures"] for row in document["rows"]}
    assert found["memory", "half of a batch fits"] == {"batch": 2, "after": 1}
    assert found["parity", "ram, fp32"]["same tag sets"] == "2 of 2"
    assert found["parity", "ram, fp32"]["logits within"] < 1e-4


def python_with_torch(folder: Path) -> Path:
    """The interpreter of a new environment that has torch, numpy and torch's own dependencies."""
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in TORCH:
        (packages / name).symlink_to(Path(torch.__file__).parents[1] / name)
    return folder / "bin" / "python"


def test_a_self_test_that_sees_nothing_is_an_error(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DRIFT, "bf16", float("inf"))
    ((_, seen),) = gpu_steps.self_test(scale)
    with pytest.raises(Broken, match="damaged weights pass"):
        seen()


def test_answers_other_than_the_held_ones_are_an_error(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DRIFT, "bf16", 1e-9)
    parts = dict(gpu_steps.tagger(scale)) | dict(gpu_steps.parity(scale))
    for name in ("graphs, batch 2", "ram, bf16", "clip_small, bf16"):
        with pytest.raises(Broken, match="does not give its golden answers"):
            parts[name]()
